//! The paper's figures, as programs.
