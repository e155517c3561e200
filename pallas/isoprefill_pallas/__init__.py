"""The attention of isoprefill: its dense reference and its Pallas TPU kernel."""
