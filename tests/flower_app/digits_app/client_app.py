"""What a client does when the server asks it to train."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_app.task import Net, load_data
from digits_app.task import train as train_net

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on the client's own pictures."""
    config = context.run_config
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    partition = int(context.node_config["partition-id"])
    loader = load_data(partition, int(context.node_config["num-partitions"]), int(config["batch-size"]))
    loss = train_net(net, loader, int(config["local-epochs"]), float(config["learning-rate"]))
    metrics = {
        "train_loss": loss,
        "num-examples": len(loader.dataset),
        "partition-id": partition,  # ProvFL
    }
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=message)
