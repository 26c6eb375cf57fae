"""Training: the step, the loop around it, and the device it runs on. A generator of records: no files, no printing."""
