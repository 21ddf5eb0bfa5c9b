"""Data sets, and the test pipeline that turns their images into batches."""
