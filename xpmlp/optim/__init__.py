"""How the flat vector moves: the tables of optimizers and of learning rate schedules."""
