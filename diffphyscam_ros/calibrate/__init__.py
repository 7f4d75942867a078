"""The camera run backwards: from photographs of a target to every parameter."""
