"""A model checker for the round protocol: the real steps, on a model of a store, in every order."""
