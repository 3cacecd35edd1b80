"""What every package may use: errors, storage, parallel work, hashing, kernels, logging, clock."""
