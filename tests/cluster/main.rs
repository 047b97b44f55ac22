//! The cluster wing as a whole.
