"""What the simulation is made of: scenarios, the world, lives of processes, the judgement."""
