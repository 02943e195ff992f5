-- Muster for Wireshark: the datagrams of discovery (IDP) and key agreement (MIKE), as `wire/` defines them.
--
--     wireshark/tshark -r black.pcap -Y muster
--
-- Names every field, what is signed and what is sealed; checks no signature and opens nothing. Reads from the top down:
-- how bytes are read, what the bodies are, the datagram around them. A body below stands as its Rust structure does.

local muster = Proto("muster", "Muster")

muster.prefs.port = Pref.uint("Discovery port", 4860, "UDP; key agreement uses the next one")

local malformed = ProtoExpert.new("muster.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local misplaced = ProtoExpert.new("muster.misplaced", "Other port", expert.group.PROTOCOL, expert.severity.WARN)
local cut_off = ProtoExpert.new("muster.cut_off", "Cut off by the capture", expert.group.UNDECODED, expert.severity.NOTE)
muster.experts = { malformed, misplaced, cut_off }

local MAX_DATAGRAM, MAX_MESSAGE, CHUNK_LEN = 8192, 2 ^ 20, 992
local HEADER_LEN, SIGNATURE_LEN, VOUCHER_LEN = 70, 64, 22

-- How bytes are read ---------------------------------------------------------------------------------------------------

-- Ends the reading of a body; `guarded` shows why.
local function fault(expert, text)
    error({ expert = expert, text = text }, 0)
end

-- A place in some bytes that are not left: from `at` to `to` (exclusive).
local Cursor = {}
Cursor.__index = Cursor

local function cursor(tvb, at, to, pinfo)
    return setmetatable({ tvb = tvb, at = at, to = to, pinfo = pinfo, values = {} }, Cursor)
end

-- The next `size` bytes.
function Cursor:take(size)
    if size > self.to - self.at then
        fault(malformed, string.format("%d bytes wanted, %d left", size, self.to - self.at))
    end
    if self.at + size > self.tvb:len() then
        fault(cut_off, "the capture does not hold the rest")
    end
    local range = self.tvb(self.at, size)
    self.at = self.at + size
    return range
end

-- A cursor over the next `size` bytes alone.
function Cursor:inside(size)
    local range = self:take(size)
    local inner = cursor(self.tvb, self.at - size, self.at, self.pinfo)
    inner.values = self.values
    return inner, range
end

-- All that follows, as far as the capture holds it.
function Cursor:rest()
    local at = math.min(self.at, self.tvb:len())
    return self.tvb(at, math.min(self.to, self.tvb:len()) - at)
end

function Cursor:finish()
    if self.at < self.to then
        fault(malformed, string.format("%d trailing bytes", self.to - self.at))
    end
end

-- Reads; if that ended early, shows in `tree` why, and returns the expert of it.
local function guarded(tree, read)
    local done, reason = pcall(read)
    if done then
        return nil
    end
    if type(reason) ~= "table" then
        error(reason, 0)
    end
    tree:add_proto_expert_info(reason.expert, reason.text)
    return reason.expert
end

-- What a field of the format is: a function that takes its bytes from a cursor, adds them to a tree and keeps the value
-- for whoever asks. `name` is the filter's, behind `muster.`.

local fields = {}

local function declare(kind, name, title, ...)
    local field = ProtoField[kind]("muster." .. name, title, ...)
    table.insert(fields, field)
    return field
end

local function number(size, name, title, base_, names)
    local field = declare("uint" .. 8 * size, name, title, base_ or base.DEC, names)
    return function(at, tree)
        local range = at:take(size)
        local node = tree:add(field, range)
        local value = size == 8 and range:uint64() or range:uint()
        at.values[name] = at.values[name] or value
        return value, node
    end
end

local function octets(size, name, title)
    local field = declare("bytes", name, title)
    return function(at, tree)
        tree:add(field, at:take(size))
    end
end

local function flag(name, title)
    local field = declare("bool", name, title)
    return function(at, tree)
        local range = at:take(1)
        tree:add(field, range)
        if range:uint() > 1 then
            fault(malformed, title .. " is neither 0 nor 1")
        end
        return range:uint() == 1
    end
end

-- A u32 that counts from 0; `names` in order.
local function choice(name, title, names)
    local strings = {}
    for index, text in ipairs(names) do
        strings[index - 1] = text
    end
    local read = number(4, name, title, base.DEC, strings)
    return function(at, tree)
        local value = read(at, tree)
        if not strings[value] then
            fault(malformed, string.format("%s %d is unknown", title, value))
        end
        return value
    end
end

-- A u32 length and at most `limit` bytes; `then_` may look into them.
local function bytes(limit, name, title, then_)
    local length, field = number(4, name .. ".length", title .. ", length"), declare("bytes", name, title)
    return function(at, tree)
        local size = length(at, tree)
        if size > limit then
            fault(malformed, string.format("%s: %d bytes, %d at most", title, size, limit))
        end
        local inner, range = at:inside(size)
        local node = tree:add(field, range)
        if then_ then
            then_(inner, node, range)
        end
    end
end

-- A u16 count and at most `limit` items.
local function list(limit, name, title, item)
    local count = number(2, name .. ".count", title)
    return function(at, tree)
        local from = at.at
        local items, node = count(at, tree)
        if items > limit then
            fault(malformed, string.format("%s: %d, %d at most", title, items, limit))
        end
        for _ = 1, items do
            item(at, node)
        end
        node:set_len(at.at - from)
    end
end

-- A byte, 0 or 1, and then an item.
local function option(name, title, item)
    local present = flag(name .. ".present", title)
    return function(at, tree)
        if present(at, tree) then
            item(at, tree)
        end
    end
end

local function sequence(...)
    local parts = { ... }
    return function(at, tree)
        for _, part in ipairs(parts) do
            part(at, tree)
        end
    end
end

local function structure(name, title, ...)
    local field, inside = declare("none", name, title), sequence(...)
    return function(at, tree)
        local from = at.at
        local node = tree:add(field, at:rest())
        inside(at, node)
        node:set_len(at.at - from)
    end
end

-- A value with a signature of its own, because others than its author pass it on.
local function signed(name, title, ...)
    local inside = sequence(...)
    return structure(name, title,
        bytes(MAX_MESSAGE, name .. ".signed", "Signed", function(at, node)
            inside(at, node)
            at:finish()
        end),
        octets(SIGNATURE_LEN, name .. ".signature", "Signature"))
end

-- What both protocols name ---------------------------------------------------------------------------------------------

local function instance(name, title)
    return structure(name, title,
        octets(32, name .. ".tm", "Transaction manager"),
        number(8, name .. ".startup", "Startup"),
        number(8, name .. ".random", "Random", base.HEX))
end

local group = octets(16, "group", "Group tag")
local hello_nonce = octets(16, "hello_nonce", "Nonce of a hello of the device asked")
local nonce = octets(16, "nonce", "Nonce")
local reign = instance("instance", "Instance")
local epoch = number(8, "epoch", "Epoch")
local epoch_header = octets(32, "epoch_header", "Hash of the epoch's header")
local public = octets(32, "public", "Public key (X25519)")

-- Discovery ------------------------------------------------------------------------------------------------------------

-- DER, by Wireshark's own dissector. What is none it marks as malformed, and raises an error that is nothing to us.
local function certificate(at, node, range)
    if range:len() > 0 then
        pcall(function()
            DissectorTable.get("media_type"):try("application/pkix-cert", range:tvb(), at.pinfo, node)
        end)
    end
end

local crl = structure("crl", "Revocation list",
    octets(32, "crl.issuer", "Issuer (hash of name and key)"),
    number(8, "crl.number", "Number"))

local hello = sequence(
    number(4, "interval", "Interval (ms)"),
    nonce,
    public,
    structure("group_state", "Group state",
        reign,
        epoch,
        number(4, "size", "Members"),
        epoch_header,
        flag("installed", "Installed: receives under this epoch"),
        flag("active", "Active: sends under this epoch")),
    list(16, "crls", "Revocation lists", crl))

local probe = sequence(hello_nonce, nonce, flag("want_chain", "Wants the certificate chain"))

local probe_answer = sequence(nonce,
    list(4, "chain", "Certificate chain", bytes(2048, "certificate", "Certificate", certificate)))

local prefixes_version = number(4, "prefixes.version", "Version of the prefixes")
local prefixes = sequence(prefixes_version, bytes(1170, "prefixes.sealed", "Prefixes, sealed (AES-256-GCM)"))
local prefixes_ack = sequence(number(8, "prefixes.startup", "Startup of the announcer"), prefixes_version)

local crl_request = sequence(hello_nonce, crl, number(8, "crl.wanted", "Parts wanted (bit n: part n)", base.HEX))
local crl_part = sequence(crl,
    number(4, "crl.length", "Bytes of the whole list"),
    number(1, "crl.index", "Part"),
    bytes(1024, "crl.data", "Bytes of the part"))

-- Key agreement --------------------------------------------------------------------------------------------------------

local MAX_MEMBERS, MAX_SLOTS, MAX_DEPTH, MAX_HANDOVERS, MAX_CIPHERTEXTS = 1024, 2048, 11, 64, 4096

local names_epoch = sequence(reign, epoch, epoch_header)
local node = number(4, "node", "Node")

local leaf = signed("leaf", "Leaf",
    number(1, "leaf.mode", "Mode", base.DEC, { [1] = "agreement" }),
    group,
    octets(32, "leaf.member", "Member"),
    number(8, "leaf.startup", "Startup"),
    number(8, "leaf.generation", "Generation"),
    public)

local parent = structure("parent", "Parent",
    choice("parent.kind", "Kind", { "agreed", "lifted", "sealed" }),
    number(8, "parent.epoch", "Keyed in epoch"),
    choice("parent.source", "Source", { "left", "right" }),
    public,
    number(4, "parent.author", "Slot of the author"),
    octets(SIGNATURE_LEN, "parent.signature", "Signature of the author"))

local ciphertext = structure("ciphertext", "Ciphertext",
    node,
    number(4, "ciphertext.recipient", "Node whose key opens it"),
    octets(48, "ciphertext.sealed", "Secret, sealed (AES-256-GCM)"))

local fill = structure("fill", "Fill", node, parent)

local function fills(limit)
    return list(limit, "fills", "Fills", fill)
end

local ephemeral = octets(32, "ephemeral", "Ephemeral key of the ciphertexts (X25519)")

local function ciphertexts(limit)
    return list(limit, "ciphertexts", "Ciphertexts", ciphertext)
end

local header = signed("header", "Epoch header",
    number(1, "header.suite", "Suite", base.DEC, { [1] = "X25519, Ed25519, SHA-256, AES-256-GCM" }),
    group,
    reign,
    epoch,
    octets(32, "header.parent", "Hash of the header before"),
    octets(32, "header.transcript", "Transcript"),
    octets(32, "header.confirmation", "Confirmation"),
    number(2, "header.spi_tag", "SPI tag"),
    octets(32, "header.handovers", "Hash of the hand-overs"),
    octets(32, "header.body", "Hash of the body"))

local handover = signed("handover", "Hand-over",
    group,
    reign,
    epoch,
    epoch_header,
    instance("target", "Target: the instance that is joined"),
    list(16, "tags", "SPI tags in use", number(2, "tag", "SPI tag")),
    list(MAX_MEMBERS, "leaves", "Leaves", leaf))

local handovers = list(MAX_HANDOVERS, "handovers", "Hand-overs", handover)

local commit = structure("commit", "Commit",
    header,
    handovers,
    fills(MAX_SLOTS),
    list(MAX_MEMBERS, "removed", "Slots that become empty", number(4, "removed", "Slot")),
    list(MAX_MEMBERS, "refreshed", "Leaves refreshed", leaf),
    option("own_leaf", "Own new leaf of the transaction manager", leaf),
    list(MAX_DEPTH, "path", "Path", parent),
    ephemeral,
    ciphertexts(MAX_CIPHERTEXTS))

local snapshot = structure("snapshot", "Snapshot",
    header,
    handovers,
    number(4, "slots", "Slots of the tree"),
    list(MAX_MEMBERS, "leaves", "Leaves", sequence(number(4, "slot", "Slot"), leaf)),
    list(MAX_SLOTS, "parents", "Parents", sequence(node, parent)),
    list(MAX_SLOTS, "sealed", "Sealed parents", sequence(node, ephemeral, ciphertexts(MAX_MEMBERS))),
    fills(MAX_SLOTS))

-- What travels in chunks: by `muster.chunk.kind`.
local MESSAGES = { [0] = { "commit", commit }, { "snapshot", snapshot }, { "hand-over", handover } }

local function whole_message(kind, at, tree)
    guarded(tree, function()
        MESSAGES[kind][2](at, tree)
        at:finish()
    end)
end

-- The chunks of messages that have not come whole, and in which frame a message became whole, with its bytes.
local partial, became_whole, bytes_in = {}, {}, {}

function muster.init()
    partial, became_whole, bytes_in = {}, {}, {}
end

-- Keeps a part; when that was the last one, the whole belongs to this frame. Each frame is kept once, when it is first
-- looked at, so that not more is kept than the capture holds.
local function keep(frame, message, index, length, data)
    if became_whole[message] then
        return
    end
    local parts = partial[message] or { missing = math.ceil(length / CHUNK_LEN) }
    partial[message] = parts
    if not parts[index] then
        parts[index], parts.missing = data, parts.missing - 1
    end
    if parts.missing == 0 then
        local whole = ByteArray.new()
        for part = 0, math.ceil(length / CHUNK_LEN) - 1 do
            whole:append(parts[part])
        end
        partial[message], became_whole[message], bytes_in[frame] = nil, frame, whole
    end
end

local message_hash = declare("bytes", "chunk.message", "Hash of the message")
local chunk_kind = choice("chunk.kind", "Message", { "commit", "snapshot", "hand-over" })
local chunk_length = number(4, "chunk.length", "Bytes of the whole message")
local chunk_index = number(2, "chunk.index", "Part")
local chunk_data = bytes(CHUNK_LEN, "chunk.data", "Bytes of the part", function(at, _, range)
    at.values.data, at.values.range = at, range
end)
local whole_in = declare("framenum", "chunk.whole_in", "Whole in frame")

local function chunk(at, tree)
    local hash = at:take(32)
    tree:add(message_hash, hash)
    local kind = chunk_kind(at, tree)
    epoch_header(at, tree)
    local length, index = chunk_length(at, tree), chunk_index(at, tree)
    chunk_data(at, tree)

    local data, size, frame = at.values.data, at.values.range:len(), at.pinfo.number
    if index == 0 and size == length then
        return whole_message(kind, data, tree)
    end
    local message = string.format("%s %s %d %d", at.values.sender, hash:bytes():tohex(), kind, length)
    local ends = index * CHUNK_LEN + size
    local fits = ends == length or (ends < length and size == CHUNK_LEN)
    if fits and length <= MAX_MESSAGE and not at.pinfo.visited then
        keep(frame, message, index, length, at.values.range:bytes())
    end
    if bytes_in[frame] then
        local whole = bytes_in[frame]:tvb("Message of Muster")
        local from_parts = cursor(whole, 0, whole:len(), at.pinfo)
        from_parts.values = at.values
        whole_message(kind, from_parts, tree)
    elseif became_whole[message] then
        tree:add(whole_in, became_whole[message]):set_generated()
    end
end

local request = sequence(hello_nonce,
    octets(32, "request.message", "Hash of the message (zero: the newest snapshot)"),
    list(256, "missing", "Parts missing", number(2, "missing", "Part")))

local objection = sequence(epoch_header, node, public)

-- The datagram ---------------------------------------------------------------------------------------------------------

local KINDS = {
    [1] = { "Hello", hello },
    [2] = { "Probe", probe },
    [3] = { "ProbeAnswer", probe_answer },
    [4] = { "Prefixes", prefixes },
    [5] = { "PrefixesAck", prefixes_ack },
    [6] = { "Goodbye", sequence() },
    [7] = { "CrlRequest", crl_request },
    [8] = { "CrlPart", crl_part },
    [16] = { "Chunk", chunk },
    [17] = { "Request", request },
    [18] = { "HandoverRefused", octets(32, "handover.hash", "Hash of the hand-over") },
    [19] = { "Ack", names_epoch },
    [20] = { "Activate", names_epoch },
    [21] = { "Leave", names_epoch },
    [22] = { "RekeyRequest", names_epoch },
    [23] = { "Fills", sequence(epoch_header, fills(8)) },
    [24] = { "FillsWanted", sequence(epoch_header, list(64, "nodes", "Nodes", node)) },
    [25] = { "Objection", objection },
    [26] = { "Refresh", sequence(reign, flag("urgent", "Urgent"), leaf) },
    [27] = { "Exposure", sequence(header, header) },
}
local FIRST_OF_KEY_AGREEMENT = 16

local names = {}
for kind, entry in pairs(KINDS) do
    names[kind] = entry[1]
end

local magic = declare("string", "magic", "Magic")
local version = number(1, "version", "Version")
local kind_of_body = number(1, "kind", "Kind", base.DEC, names)
local sender = declare("bytes", "sender", "Sender (member id)")
local startup = number(8, "startup", "Startup")
local sequence_number = number(8, "sequence", "Sequence")
local body_field = declare("none", "body", "Body")
local signature = octets(SIGNATURE_LEN, "signature", "Signature of the sender (Ed25519)")

local voucher = structure("voucher", "Voucher",
    function(at, tree) tree:add(magic, at:take(4)) end,
    number(2, "voucher.tag", "SPI tag of the epoch"),
    octets(16, "voucher.mac", "MAC (HMAC-SHA-256, 16 bytes)"))

-- The line of a datagram whose body could be read.
local function summary(name, values)
    if values["chunk.kind"] then
        name = string.format("%s of a %s, %d of %d", name, MESSAGES[values["chunk.kind"]][1],
            values["chunk.index"] + 1, math.ceil(values["chunk.length"] / CHUNK_LEN))
    end
    return values.epoch and name .. ", epoch " .. tostring(values.epoch) or name
end

local function envelope(at, tree)
    local length = at.to - at.at
    if length < HEADER_LEN + SIGNATURE_LEN or length > MAX_DATAGRAM then
        fault(malformed, string.format("%d bytes are not a datagram of this protocol", length))
    end
    local word = at:take(4)
    if word:string() ~= "MSTR" then
        fault(malformed, "not a datagram of this protocol")
    end
    tree:add(magic, word)
    if version(at, tree) ~= 1 then
        fault(malformed, "another version of the protocol")
    end
    local kind, kind_node = kind_of_body(at, tree)
    group(at, tree)
    local from = at:take(32)
    at.values.sender = from:bytes():tohex()
    tree:add(sender, from)
    startup(at, tree)
    sequence_number(at, tree)

    local entry = KINDS[kind]
    if not entry then
        fault(malformed, "unknown kind of message")
    end
    local is_key_agreement = kind >= FIRST_OF_KEY_AGREEMENT
    at.pinfo.cols.protocol = is_key_agreement and "MIKE" or "IDP"
    if at.pinfo.dst_port ~= muster.prefs.port + (is_key_agreement and 1 or 0) then
        kind_node:add_proto_expert_info(misplaced)
    end

    -- A body that cannot be read hides no signature.
    local body = cursor(at.tvb, at.at, at.to - SIGNATURE_LEN, at.pinfo)
    body.values = at.values
    local body_node = tree:add(body_field, body:rest()):set_text("Body: " .. entry[1])
    local ended = guarded(body_node, function()
        entry[2](body, body_node)
        body:finish()
    end)
    if ended then
        at.pinfo.cols.info = entry[1] .. (ended == cut_off and " [cut off]" or " [malformed]")
    else
        at.pinfo.cols.info = summary(entry[1], at.values)
    end
    at.at = at.to - SIGNATURE_LEN
    signature(at, tree)
end

function muster.dissector(tvb, pinfo, tree)
    pinfo.cols.protocol = "Muster"
    pinfo.cols.info = "Unreadable"
    local root = tree:add(muster, tvb())
    local at = cursor(tvb, 0, tvb:reported_len(), pinfo)
    guarded(root, function()
        if tvb:reported_len() >= VOUCHER_LEN and tvb:len() >= 4 and tvb(0, 4):string() == "MSTV" then
            voucher(at, root)
        end
        envelope(at, root)
    end)
    return tvb:len()
end

muster.fields = fields

-- The two ports, as the preference says.
local udp, port = DissectorTable.get("udp.port"), nil

local function listen()
    for offset = 0, 1 do
        if port then
            udp:remove(port + offset, muster)
        end
    end
    port = muster.prefs.port
    udp:add(port, muster)
    udp:add(port + 1, muster)
end

muster.prefs_changed = listen
listen()
