"""What agents share: tools with types, planners, files, a ReAct loop, a graph of tasks, a restricted interpreter (rank
5)."""
