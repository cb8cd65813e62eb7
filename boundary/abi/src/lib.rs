//! What crosses the wall.
#![no_std]
