"""What `isoprefill doctor` checks: that this machine computes what it should, about as fast as it should."""
