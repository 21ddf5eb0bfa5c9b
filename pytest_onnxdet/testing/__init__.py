"""What tests of another repository use."""
