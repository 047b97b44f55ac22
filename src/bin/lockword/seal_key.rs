//! `lockword seal-key`: makes a file of keys, and shows how names are stored.

use crate::lock_args::SealKeyArgs;
use crate::output::print;
use crate::{CliError, ExitOutcome, exit};
use lockword::cluster::Key;
use lockword::cluster::layers::SealKeys;

pub fn seal_key(args: &SealKeyArgs) -> Result<ExitOutcome, CliError> {
    let Some(name) = &args.stored else {
        SealKeys::create_file(&args.file)
            .map_err(|why| CliError::with(exit::CANNOT_WRITE, why.to_string()))?;
        return Ok(ExitOutcome::Done);
    };
    let usage = |why: &dyn std::fmt::Display| CliError::with(exit::USAGE, why.to_string());
    let keys = SealKeys::read(&args.file).map_err(|why| usage(&why))?;
    let key = Key::new(name).map_err(|why| usage(&why))?;
    let stored = match name.ends_with('/') {
        true => keys.stored_prefix(name).ok_or_else(|| {
            usage(&"a prefix has at most seven segments: those after them are hashed with the name")
        })?,
        false => keys.stored_name(&key).to_string(),
    };
    print(&format!("{stored}\n"))?;
    Ok(ExitOutcome::Done)
}
