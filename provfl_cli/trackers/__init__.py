"""Where else a run is logged as it goes: TensorBoard, MLflow, Weights & Biases. One module each, all light."""
