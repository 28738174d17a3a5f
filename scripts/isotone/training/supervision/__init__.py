"""Starting, stopping and watching over a training process."""
