//! The control socket.

/// Any line: understood or refused. A refusal is a JSON-RPC error object on one line.
pub(crate) fn control(data: &[u8]) {
    if let Err(refusal) = muster_bridge::fuzzing::request(data) {
        let text = refusal.to_string();
        assert!(!text.contains('\n'));
        assert!(text.contains("\"jsonrpc\":\"2.0\"") && text.contains("\"error\""));
    }
}
