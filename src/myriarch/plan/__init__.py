"""How a model and a batch are split over unlike groups. First slice: the batch."""
