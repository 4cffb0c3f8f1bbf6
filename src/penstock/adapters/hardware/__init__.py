"""What this machine is: graphics cards by their drivers, the processor by the kernel."""
