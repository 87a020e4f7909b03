//! What containerd would do without us, in its own words: the same files with ours left out.
//!
//! Our drop-in goes on to win when kata-deploy moves a shim or takes a handler away, so what holds with us does not show that.
//! containerd is asked with a main file in memory that imports everything but our own files. Only for 2.x: in 1.x our keys stand in
//! the main file in place of others', and who writes it anew takes them away. Changes nothing.

use super::{InstallFault, Node, Record, edit, effective::Effective, imports::Imports, text_of};

/// Of this node; `record` says what was made of its main file.
pub fn effective(node: &Node, record: Option<&Record>) -> Result<Effective, InstallFault> {
    let config = &node.config;
    let text = if node.release.merges_drop_ins() { text_of(config)? } else { None };
    let Some(text) = text else { return Ok(node.effective.clone()) };
    let without = record.map_or_else(|| Ok(text.clone()), |record| record.without_us(config, &text))?;
    let mut main = edit::parse(config, &without)?;
    let imports = Imports::of(config, &main);
    if imports.ours().is_empty() && without == text {
        return Ok(node.effective.clone());
    }
    edit::import_only(&mut main, imports.without_ours());
    node.would_say(&main.to_string())
}
