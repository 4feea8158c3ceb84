"""Fine-tuning: what full training, LoRA and QLoRA hold, read from watched steps or assumed."""
