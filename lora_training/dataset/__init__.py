"""What upstream will train on: the pictures of a data set, their buckets, crops and captions. Changes nothing."""
