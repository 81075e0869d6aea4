"""Rate limits: token buckets, their settings, and how operators change them."""
