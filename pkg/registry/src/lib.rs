//! What is special about single resources: strategies with effects and subresources.
