//! Rotation, repair and encoding against real files.
