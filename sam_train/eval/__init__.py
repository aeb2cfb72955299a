"""Measuring a model: k-click mIoU, the calibration of its IoU head, and the paper's tasks."""
