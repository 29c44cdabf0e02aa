//! Runs Redis scripts: Lua 5.1 with Redis' libraries, deterministic and within budgets.
#![forbid(unsafe_code)]
