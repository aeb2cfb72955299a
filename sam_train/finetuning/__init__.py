"""Fine-tuning on one's own photos by one command; `fit` does the training.

The room is not called `finetune`, because `sam_train.finetune` is the function.
"""
