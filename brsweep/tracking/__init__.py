"""What a run tells the outside while it trains: lines of JSON on file, an optional mirror of them, and the console.

`metrics.jsonl` is the truth. A tracker (CSV, TensorBoard, Trackio, W&B) mirrors it, may fail, and can be filled again
from it; the console is for eyes. Nothing here imports torch; wandb, trackio, tensorboard, matplotlib and rich are
imported when first needed.
"""
