"""What of a graph stands for each operator of torch (ATen) that a network is traced into."""
