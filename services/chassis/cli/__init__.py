"""What the command lines share: how they speak, and how they reach a running deployment."""
