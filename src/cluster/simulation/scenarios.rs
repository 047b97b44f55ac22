//! Stories whose outcome is known: with figures.
