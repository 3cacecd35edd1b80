"""What an operator starts: service, watcher, local stack, doctor, simulation."""
