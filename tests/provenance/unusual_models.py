"""Models written in unusual ways, by what is unusual."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

VECTOR, SEQUENCE, IMAGE = (6,), (4, 6), (2, 6, 6)


class Made(nn.Module):
    """Layers by name, and a forward pass as a function of the module and its input."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter | Tensor):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def new(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.5)


def mlp(first: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.Tanh(), nn.Linear(8, 5))


def pruned() -> nn.Module:
    model = mlp(nn.Linear(6, 8))
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


def positive() -> nn.Module:
    layer = nn.Linear(6, 8)
    nn.utils.parametrize.register_parametrization(layer, "weight", Positive())
    return mlp(layer)


def experts(m: nn.Module, x: Tensor) -> Tensor:
    """Each input goes through the two experts that its gate prefers, in their order in the batch."""
    gates = m.gate(x).softmax(1)
    top, chosen = gates.topk(2, 1)
    result = torch.zeros_like(x)
    for number, expert in enumerate(m.experts):
        rows, place = (chosen == number).nonzero(as_tuple=True)
        result = result.index_add(0, rows, expert(x[rows]) * top[rows, place, None])
    return m.head(result)


def all_experts(m: nn.Module, x: Tensor) -> Tensor:
    top, chosen = m.gate(x).topk(2, 1)
    gates = torch.zeros_like(m.gate(x)).scatter(1, chosen, top.softmax(1))
    return m.head((torch.stack([expert(x) for expert in m.experts], 1) * gates[..., None]).sum(1))


def spatial_transformer(m: nn.Module, x: Tensor) -> Tensor:
    theta = m.where(x.flatten(1)).view(-1, 2, 3) + torch.eye(2, 3, dtype=x.dtype)
    return m.head(F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False))


def deformable(m: nn.Module, x: Tensor) -> Tensor:
    offsets = m.offset(x).tanh().permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return m.head(m.conv(F.grid_sample(x, grid + offsets * 0.3, align_corners=False)))


def attention_pooling(m: nn.Module, x: Tensor) -> Tensor:
    keys = m.key(x)
    return m.head(((keys @ m.query) / 2).softmax(1).unsqueeze(1).matmul(x).squeeze(1))


def scaled_dot_product(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (t.view(len(x), 4, 2, 3).transpose(1, 2) for t in m.qkv(x).chunk(3, -1))
    return m.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


def latent_queries(m: nn.Module, x: Tensor) -> Tensor:
    queries = m.latents.expand(len(x), -1, -1)
    return m.head(m.attention(queries, x, x)[0].mean(1))


def class_token(m: nn.Module, x: Tensor) -> Tensor:
    x = torch.cat([m.token.expand(len(x), -1, -1), x], 1) + m.positions
    return m.head(m.encoder(x)[:, 0])


def film(m: nn.Module, x: Tensor) -> Tensor:
    scale, shift = m.condition(x.mean((2, 3))).chunk(2, 1)
    return m.head((m.conv(x) * scale[:, :, None, None] + shift[:, :, None, None]).relu())


def hyper(m: nn.Module, x: Tensor) -> Tensor:
    """A layer's weight is another's output."""
    weights = m.maker(x).view(-1, 8, 6)
    return m.head(torch.bmm(weights, x[:, :, None]).squeeze(2).tanh())


def hyper_of_parameters(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(F.linear(x, m.maker(m.code).view(8, 6)).tanh())


def squeeze_excite(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.head(y * m.up(m.down(y.mean((2, 3), keepdim=True)).relu()).sigmoid())


def convnext(m: nn.Module, x: Tensor) -> Tensor:
    y = m.norm(m.depth(x).permute(0, 2, 3, 1))
    return m.head(x + (m.scale * m.out(F.gelu(m.wide(y)))).permute(0, 3, 1, 2))


def unet(m: nn.Module, x: Tensor) -> Tensor:
    top = m.first(x).relu()
    low = m.up(m.second(F.max_pool2d(top, 2)).relu())
    return m.last(torch.cat([top, low], 1)).mean((2, 3))


def mixer(m: nn.Module, x: Tensor) -> Tensor:
    x = x + m.tokens(m.norm(x).transpose(1, 2)).transpose(1, 2)
    return m.head((x + m.channels(x)).mean(1))


def lora(m: nn.Module, x: Tensor) -> Tensor:
    return m.head((m.base(x) + x @ m.down.T @ m.up.T * 0.5).relu())


def lora_merged(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(F.linear(x, m.base.weight + m.up @ m.down, m.base.bias).relu())


def fourier(m: nn.Module, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(m.filter)
    return m.head(torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho"))


def cosine(m: nn.Module, x: Tensor) -> Tensor:
    return m.scale.exp() * F.linear(F.normalize(m.body(x)), F.normalize(m.centres))


def distances(m: nn.Module, x: Tensor) -> Tensor:
    return -torch.cdist(m.body(x), m.centres) / m.temperature


def index_put(m: nn.Module, x: Tensor) -> Tensor:
    table = torch.zeros(len(x), 8, dtype=x.dtype)
    table[:, torch.tensor([1, 3, 5, 7, 0, 2])] = m.first(x)
    return m.head(table)


def swiglu(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(F.silu(m.gate(x)) * m.value(x))


def tied(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(F.linear(m.code(x).tanh(), m.code.weight.t(), m.back))


def shared(m: nn.Module, x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + m.block(x).tanh()
    return m.head(x)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, w: Tensor) -> Tensor:
        return w.sign()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g * 0.7


class Product(torch.autograd.Function):
    """A layer whose backward pass is not the derivative of its forward pass."""

    @staticmethod
    def forward(ctx: object, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g @ w * 0.5, g.t() @ x * 2


SIGN, PRODUCT = Sign.apply, Product.apply


def reordered(m: nn.Module, x: Tensor) -> Tensor:
    """Sorts the batch and puts it back."""
    order = x.sum(1).argsort()
    return m.head(m.first(x[order]).tanh())[order.argsort()]


def in_a_loop(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([m.head(m.first(row).relu()) for row in x])


def without_gradient(m: nn.Module, x: Tensor) -> Tensor:
    """The same layer counts where it has a gradient, and not where it has none."""
    with torch.no_grad():
        fixed = m.first(x)
    return m.head(m.first(x).tanh() + fixed)


def checkpointed(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(torch.utils.checkpoint.checkpoint(m.first, x, use_reentrant=False).tanh())


def by_data(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(F.linear(x, m.first.weight.data).tanh() + m.first(x))


def embedded(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(m.table(x))


def recurrent(layer: nn.Module, first: bool) -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        out, state = m.layer(x if first else x.transpose(0, 1))
        out = out if first else out.transpose(0, 1)
        states = state if isinstance(state, tuple) else (state,)
        return m.head(torch.cat([out[:, -1], out[:, 0], *(s.transpose(0, 1).flatten(1) for s in states)], 1))

    made = Made(forward, layer=layer, head=nn.LazyLinear(5))
    made.eval()(torch.randn(2, *SEQUENCE))
    return made


def with_states(m: nn.Module, x: Tensor) -> Tensor:
    """A state that is a parameter, and one that another layer computes."""
    out, _ = m.layer(x, (m.start.expand(-1, len(x), -1), m.cell(x[:, 0]).unsqueeze(0)))
    return m.head(out[:, -1])


def zero_states(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(m.layer(x, torch.zeros(1, len(x), 5, dtype=x.dtype))[0].mean(1))


def cells(m: nn.Module, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = m.cell(step, state)
    return m.head(state[0] if isinstance(state, tuple) else state)


def packed(sorted_before: bool) -> Callable[[nn.Module, Tensor], Tensor]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        lengths = (x[..., 0] > 0).sum(1).clamp_min(1)
        order = lengths.argsort(descending=True)
        x, lengths = (x[order], lengths[order]) if sorted_before else (x, lengths)
        sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=sorted_before)
        out, state = m.layer(sequence)
        padded, _ = pad_packed_sequence(out, batch_first=True, total_length=4)
        logits = m.head(torch.cat([padded.sum(1), state[0].flatten(0, 0).transpose(0, 1).flatten(1)], 1))
        return logits[order.argsort()] if sorted_before else logits

    return forward


def unbatched(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([m.head(m.layer(row)[0][-1]) for row in x])


def windows(m: nn.Module, x: Tensor) -> Tensor:
    """A recurrent layer over parts of each input, flattened together with the batch, then one over the parts."""
    parts = m.layer(x.reshape(len(x) * 2, 2, 6))[0][:, -1].view(len(x), 2, 5)
    return m.head(m.over(parts)[1][0].squeeze(0))


def bidirectional(kind: type[nn.Module], **more: object) -> nn.Module:
    return recurrent(kind(6, 5, num_layers=2, dropout=0.4, bidirectional=True, batch_first=True, **more), True)


def image_head(channels: int, size: int = 6) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, 5))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "spectral norm": (lambda: mlp(parametrizations.spectral_norm(nn.Linear(6, 8))), VECTOR),
    "spectral norm of a convolution": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), nn.ReLU(), image_head(3, 4)),
        IMAGE,
    ),
    "old spectral norm": (lambda: mlp(nn.utils.spectral_norm(nn.Linear(6, 8))), VECTOR),
    "weight norm": (lambda: mlp(parametrizations.weight_norm(nn.Linear(6, 8), dim=1)), VECTOR),
    "pruned": (pruned, VECTOR),
    "orthogonal": (lambda: mlp(parametrizations.orthogonal(nn.Linear(6, 8))), VECTOR),
    "orthogonal by exponential": (
        lambda: mlp(
            nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="matrix_exp"), nn.Linear(6, 8))
        ),
        VECTOR,
    ),
    "positive weights": (positive, VECTOR),
    "mixture of experts, picked rows": (
        lambda: Made(
            experts,
            gate=nn.Linear(6, 4),
            experts=nn.ModuleList(nn.Linear(6, 6) for _ in range(4)),
            head=nn.Linear(6, 5),
        ),
        VECTOR,
    ),
    "mixture of experts, all rows": (
        lambda: Made(
            all_experts,
            gate=nn.Linear(6, 4),
            experts=nn.ModuleList(nn.Linear(6, 6) for _ in range(4)),
            head=nn.Linear(6, 5),
        ),
        VECTOR,
    ),
    "spatial transformer": (lambda: Made(spatial_transformer, where=nn.Linear(72, 6), head=image_head(2)), IMAGE),
    "deformable": (
        lambda: Made(
            deformable, offset=nn.Conv2d(2, 2, 3, padding=1), conv=nn.Conv2d(2, 3, 3, padding=1), head=image_head(3)
        ),
        IMAGE,
    ),
    "depthwise separable": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, groups=2),
            nn.Hardswish(),
            nn.Conv2d(4, 3, 1),
            nn.BatchNorm2d(3, affine=False),
            image_head(3),
        ),
        IMAGE,
    ),
    "same padding, even kernel": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 4, padding="same"), nn.GELU(), image_head(3)),
        IMAGE,
    ),
    "reflected padding": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU(), image_head(3)),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2, groups=2), image_head(2)
        ),
        IMAGE,
    ),
    "3d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 3, (1, 3, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
        ),
        IMAGE,
    ),
    "bilinear": (
        lambda: Made(
            lambda m, x: m.head(m.pair(x[:, :3], x[:, 2:]).tanh()), pair=nn.Bilinear(3, 4, 7), head=nn.Linear(7, 5)
        ),
        VECTOR,
    ),
    "attention": (
        lambda: Made(
            lambda m, x: m.head(m.attention(x, x, x)[0].flatten(1)),
            attention=nn.MultiheadAttention(6, 3, batch_first=True),
            head=nn.Linear(24, 5),
        ),
        SEQUENCE,
    ),
    "attention with its own key and value": (
        lambda: Made(
            lambda m, x: m.head(m.attention(x, x, x)[0].flatten(1)),
            attention=nn.MultiheadAttention(6, 2, batch_first=True, add_bias_kv=True),
            head=nn.Linear(24, 5),
        ),
        SEQUENCE,
    ),
    "encoder": (
        lambda: nn.Sequential(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.1), 2),
            nn.Flatten(),
            nn.Linear(24, 5),
        ),
        SEQUENCE,
    ),
    "decoder": (
        lambda: Made(
            lambda m, x: m.head(m.decoder(x, x * 2).flatten(1)),
            decoder=nn.TransformerDecoderLayer(6, 2, 8, batch_first=True, norm_first=True),
            head=nn.Linear(24, 5),
        ),
        SEQUENCE,
    ),
    "scaled dot product": (lambda: Made(scaled_dot_product, qkv=nn.Linear(6, 18), head=nn.Linear(24, 5)), SEQUENCE),
    "attention pooling": (
        lambda: Made(attention_pooling, key=nn.Linear(6, 3), query=new(3), head=nn.Linear(6, 5)),
        SEQUENCE,
    ),
    "latent queries": (
        lambda: Made(
            latent_queries,
            latents=new(1, 3, 6),
            attention=nn.MultiheadAttention(6, 2, batch_first=True),
            head=nn.Linear(6, 5),
        ),
        SEQUENCE,
    ),
    "class token and positions": (
        lambda: Made(
            class_token,
            token=new(1, 1, 6),
            positions=new(1, 5, 6),
            encoder=nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
            head=nn.Linear(6, 5),
        ),
        SEQUENCE,
    ),
    "positions, sequence first": (
        lambda: Made(
            lambda m, x: m.head((x.transpose(0, 1) + m.positions).tanh().sum(0)),
            positions=new(4, 1, 6),
            head=nn.Linear(6, 5),
        ),
        SEQUENCE,
    ),
    "einsum": (
        lambda: Made(lambda m, x: torch.einsum("bti,hio,ho->bo", x, m.w.tanh(), m.v), w=new(3, 6, 5), v=new(3, 5)),
        SEQUENCE,
    ),
    "tied and transposed": (lambda: Made(tied, code=nn.Linear(6, 4), back=new(6), head=nn.Linear(6, 5)), VECTOR),
    "shared": (lambda: Made(shared, block=nn.Linear(6, 6), head=nn.Linear(6, 5)), VECTOR),
    "siren": (
        lambda: Made(lambda m, x: m.head(torch.sin(30 * m.first(x))), first=nn.Linear(6, 8), head=nn.Linear(8, 5)),
        VECTOR,
    ),
    "film": (
        lambda: Made(film, condition=nn.Linear(2, 6), conv=nn.Conv2d(2, 3, 3, padding=1), head=image_head(3)),
        IMAGE,
    ),
    "hypernetwork of the input": (lambda: Made(hyper, maker=nn.Linear(6, 48), head=nn.Linear(8, 5)), VECTOR),
    "hypernetwork of parameters": (
        lambda: Made(hyper_of_parameters, maker=nn.Linear(3, 48), code=new(3), head=nn.Linear(8, 5)),
        VECTOR,
    ),
    "prelu": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.PReLU(3), image_head(3)), IMAGE),
    "glu": (lambda: nn.Sequential(nn.Linear(6, 16), nn.GLU(), nn.Linear(8, 5)), VECTOR),
    "swiglu": (lambda: Made(swiglu, gate=nn.Linear(6, 8), value=nn.Linear(6, 8), head=nn.Linear(8, 5)), VECTOR),
    "rms norm and layer scale": (
        lambda: Made(
            lambda m, x: m.head((x + m.scale * m.block(m.norm(x)).tanh()).mean(1)),
            norm=nn.RMSNorm(6),
            block=nn.Linear(6, 6),
            scale=new(6),
            head=nn.Linear(6, 5),
        ),
        SEQUENCE,
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.GroupNorm(2, 4, eps=0.1),
            nn.ReLU(),
            nn.InstanceNorm2d(4, affine=True),
            nn.LocalResponseNorm(2),
            image_head(4, 4),
        ),
        IMAGE,
    ),
    "convnext": (
        lambda: Made(
            convnext,
            depth=nn.Conv2d(2, 2, 5, padding=2, groups=2),
            norm=nn.LayerNorm(2),
            wide=nn.Linear(2, 8),
            out=nn.Linear(8, 2),
            scale=new(2),
            head=image_head(2),
        ),
        IMAGE,
    ),
    "squeeze and excite": (
        lambda: Made(
            squeeze_excite,
            conv=nn.Conv2d(2, 4, 3, padding=1),
            down=nn.Conv2d(4, 2, 1),
            up=nn.Conv2d(2, 4, 1),
            head=image_head(4),
        ),
        IMAGE,
    ),
    "u-net": (
        lambda: Made(
            unet,
            first=nn.Conv2d(2, 4, 3, padding=1),
            second=nn.Conv2d(4, 6, 3, padding=1),
            up=nn.ConvTranspose2d(6, 4, 2, stride=2),
            last=nn.Conv2d(8, 5, 1),
        ),
        IMAGE,
    ),
    "mixer": (
        lambda: Made(
            mixer,
            norm=nn.LayerNorm(6),
            tokens=nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)),
            channels=nn.Linear(6, 6),
            head=nn.Linear(6, 5),
        ),
        SEQUENCE,
    ),
    "lora": (lambda: Made(lora, base=nn.Linear(6, 8), down=new(2, 6), up=new(8, 2), head=nn.Linear(8, 5)), VECTOR),
    "lora, merged": (
        lambda: Made(lora_merged, base=nn.Linear(6, 8), down=new(2, 6), up=new(8, 2), head=nn.Linear(8, 5)),
        VECTOR,
    ),
    "fourier": (lambda: Made(fourier, filter=new(2, 6, 4, 2), head=image_head(2)), IMAGE),
    "cosine classifier": (
        lambda: Made(cosine, body=nn.Linear(6, 8), centres=new(5, 8), scale=nn.Parameter(torch.tensor(0.5))),
        VECTOR,
    ),
    "distances to centres": (
        lambda: Made(distances, body=nn.Linear(6, 8), centres=new(5, 8), temperature=nn.Parameter(torch.tensor(1.5))),
        VECTOR,
    ),
    "scalars": (
        lambda: Made(
            lambda m, x: m.a * m.head((x * m.b.exp() + m.c).tanh()) / (1 + m.a**2),
            a=nn.Parameter(torch.tensor(0.7)),
            b=nn.Parameter(torch.tensor(0.2)),
            c=nn.Parameter(torch.tensor(0.1)),
            head=nn.Linear(6, 5),
        ),
        VECTOR,
    ),
    "index put": (lambda: Made(index_put, first=nn.Linear(6, 6), head=nn.Linear(8, 5)), VECTOR),
    "fixed random features": (
        lambda: Made(
            lambda m, x: m.head(F.linear(x, m.fixed, m.shift).cos()),
            fixed=torch.randn(8, 6),
            shift=new(8),
            head=nn.Linear(8, 5),
        ),
        VECTOR,
    ),
    "straight-through sign": (
        lambda: Made(
            lambda m, x: m.head(F.linear(x, SIGN(m.first.weight), m.first.bias).relu()),
            first=nn.Linear(6, 8),
            head=nn.Linear(8, 5),
        ),
        VECTOR,
    ),
    "straight-through by detach": (
        lambda: Made(
            lambda m, x: m.head(F.linear(x, m.w + (m.w.sign() - m.w).detach()).relu()),
            w=new(8, 6),
            head=nn.Linear(8, 5),
        ),
        VECTOR,
    ),
    "function of data and parameters": (
        lambda: Made(
            lambda m, x: m.head(PRODUCT(m.first(x).relu(), m.w)),
            first=nn.Linear(6, 8),
            w=new(7, 8),
            head=nn.Linear(7, 5),
        ),
        VECTOR,
    ),
    "reordered": (lambda: Made(reordered, first=nn.Linear(6, 8), head=nn.Linear(8, 5)), VECTOR),
    "in a loop": (lambda: Made(in_a_loop, first=nn.Linear(6, 8), head=nn.Linear(8, 5)), VECTOR),
    "partly without gradient": (lambda: Made(without_gradient, first=nn.Linear(6, 8), head=nn.Linear(8, 5)), VECTOR),
    "partly by .data": (lambda: Made(by_data, first=nn.Linear(6, 8), head=nn.Linear(8, 5)), VECTOR),
    "checkpointed": (lambda: Made(checkpointed, first=nn.Linear(6, 8), head=nn.Linear(8, 5)), VECTOR),
    "lstm": (lambda: recurrent(nn.LSTM(6, 5), False), SEQUENCE),
    "lstm, two layers, both ways": (lambda: bidirectional(nn.LSTM), SEQUENCE),
    "lstm, projected": (lambda: bidirectional(nn.LSTM, proj_size=3), SEQUENCE),
    "gru": (lambda: recurrent(nn.GRU(6, 5, bias=False), False), SEQUENCE),
    "gru, two layers, both ways": (lambda: bidirectional(nn.GRU), SEQUENCE),
    "rnn": (lambda: recurrent(nn.RNN(6, 5), False), SEQUENCE),
    "rnn of relu": (lambda: bidirectional(nn.RNN, nonlinearity="relu"), SEQUENCE),
    "lstm from states": (
        lambda: Made(
            with_states,
            layer=nn.LSTM(6, 5, batch_first=True),
            start=new(1, 1, 5),
            cell=nn.Linear(6, 5),
            head=nn.Linear(5, 5),
        ),
        SEQUENCE,
    ),
    "gru from zeros": (lambda: Made(zero_states, layer=nn.GRU(6, 5, batch_first=True), head=nn.Linear(5, 5)), SEQUENCE),
    "lstm cell": (lambda: Made(cells, cell=nn.LSTMCell(6, 5), head=nn.Linear(5, 5)), SEQUENCE),
    "gru cell": (lambda: Made(cells, cell=nn.GRUCell(6, 5), head=nn.Linear(5, 5)), SEQUENCE),
    "rnn cell": (lambda: Made(cells, cell=nn.RNNCell(6, 5, nonlinearity="relu"), head=nn.Linear(5, 5)), SEQUENCE),
    "packed": (
        lambda: Made(packed(False), layer=nn.LSTM(6, 5, batch_first=True, bidirectional=True), head=nn.Linear(20, 5)),
        SEQUENCE,
    ),
    "packed, sorted before": (
        lambda: Made(packed(True), layer=nn.LSTM(6, 5, batch_first=True, bidirectional=True), head=nn.Linear(20, 5)),
        SEQUENCE,
    ),
    "unbatched": (lambda: Made(unbatched, layer=nn.GRU(6, 5), head=nn.Linear(5, 5)), SEQUENCE),
    "hierarchical": (
        lambda: Made(
            windows, layer=nn.GRU(6, 5, batch_first=True), over=nn.LSTM(5, 5, batch_first=True), head=nn.Linear(5, 5)
        ),
        SEQUENCE,
    ),
    "recurrent, weight norm": (
        lambda: recurrent(parametrizations.weight_norm(nn.GRU(6, 5), "weight_hh_l0"), False),
        SEQUENCE,
    ),
}
