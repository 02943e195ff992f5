//! What one message of the key server says, in both phases: `SEQ, [D …,] [SA, KD]` (draft 3.1, 4.1, 5.0).

use crate::isakmp::{Chain, Delete, KeyDownload, KeyPacket, Malformed, Policy, Raw, RekeySa, TrafficSa, kind, number};

/// Octets of SA and KD payloads that one message is filled with: with the rest of it, and IPv6 and UDP around it, it passes
/// where 1280 do.
pub(super) const FILL: usize = 1000;
/// Octets of the SPI of a re-key SA, both cookies (draft 7.7), and of one of ESP (7.8.1).
const REKEY_SPI_LEN: usize = 16;
const ESP_SPI_LEN: usize = 4;

/// SAs that come, with their keys, and SAs that go. **Secret.**
#[derive(Clone, Default)]
pub(crate) struct Push {
    /// What goes, first.
    pub(crate) deletes: Vec<Delete>,
    /// What comes.
    pub(crate) policy: Policy,
    /// Its keys.
    pub(crate) keys: KeyDownload,
}

impl Push {
    /// The payloads of the message with this number, as they are hashed or signed.
    pub(crate) fn chain(&self, sequence: u32, doi: u32) -> Chain {
        let mut chain = Chain::new();
        chain.add(kind::SEQ, &sequence.to_be_bytes());
        for delete in &self.deletes {
            chain.add(kind::DELETE, &delete.to_body());
        }
        // "If a GCKS has no further SAs to send to group members, the SA and KD payloads MUST be omitted from the message."
        // (draft 5.0)
        if !self.policy.is_empty() {
            chain.add(kind::SA, &self.policy.to_body(doi)).add(kind::KD, &self.keys.to_body());
        }
        chain
    }

    /// Reads the payloads between hash and signature: the number, and what it says.
    ///
    /// # Errors
    /// Another order of payloads, an SA without keys, keys without an SA, nothing at all, a delete of what is neither a re-key SA nor
    /// one of ESP; and as each payload says.
    pub(crate) fn parse(payloads: &[Raw<'_>], doi: u32) -> Result<(u32, Push), Malformed> {
        let (sequence, rest) = payloads.split_first().ok_or(Malformed::Missing("SEQ"))?;
        if sequence.kind != kind::SEQ {
            return Err(Malformed::Missing("SEQ"));
        }
        let deletes = rest.iter().take_while(|raw| raw.kind == kind::DELETE).count();
        let (deletes, rest) = rest.split_at(deletes);
        let mut push = Push::default();
        for raw in deletes {
            let delete = Delete::parse(raw.body)?;
            // "The Domain of Interpretation field contains the FMKE DOI." (draft 5.0)
            if delete.doi != doi {
                return Err(Malformed::Field { field: "DOI of a Delete", value: delete.doi });
            }
            // "The Protocol-Id field contains TEK protocol id values defined in Section 7.8 … To delete a KEK SA, the value of zero
            // MUST be used … only one protocol id value can be defined in a Delete payload." (draft 5.0)
            let spi_len = match delete.protocol {
                0 => REKEY_SPI_LEN,
                1 => ESP_SPI_LEN,
                other => return Err(Malformed::Field { field: "Protocol-Id of a Delete", value: other.into() }),
            };
            if let Some(other) = delete.spis.iter().find(|spi| spi.len() != spi_len) {
                return Err(Malformed::Field { field: "SPI Size of a Delete", value: other.len() as u32 });
            }
            push.deletes.push(delete);
        }
        match rest {
            [] if !push.deletes.is_empty() => {}
            [sa, kd] if sa.kind == kind::SA && kd.kind == kind::KD => {
                push.policy = Policy::parse(sa.body, doi)?;
                push.keys = KeyDownload::parse(kd.body)?;
            }
            [] => return Err(Malformed::Missing("SA")),
            [other, ..] => return Err(Malformed::Field { field: "Next Payload", value: u32::from(other.kind) }),
        }
        Ok((number(sequence.body)?, push))
    }

    /// Adds a re-key SA with its key packets.
    pub(crate) fn add_rekey(&mut self, sa: RekeySa, packets: Vec<KeyPacket>) {
        self.policy.rekey.push(sa);
        self.keys.packets.extend(packets);
    }

    /// Adds an SA of ESP.
    pub(crate) fn add_traffic(&mut self, sa: TrafficSa, packet: KeyPacket) {
        self.policy.traffic.push(sa);
        self.keys.packets.push(packet);
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.policy.is_empty()
    }
}

/// Puts many SAs into as few messages as they fill.
#[derive(Default)]
pub(crate) struct Filling {
    full: Vec<Push>,
    current: Push,
    len: usize,
}

impl Filling {
    /// Adds what `say` says, in one message.
    pub(crate) fn add(&mut self, say: impl FnOnce(&mut Push)) {
        let mut more = Push::default();
        say(&mut more);
        // With headers that it shares with others when it stands beside them.
        let len = more.chain(0, 0).bytes().len();
        if self.len > 0 && self.len + len > FILL {
            self.full.push(std::mem::take(&mut self.current));
            self.len = 0;
        }
        self.len += len;
        let Push { deletes, policy, keys } = &mut self.current;
        deletes.append(&mut more.deletes);
        policy.rekey.append(&mut more.policy.rekey);
        policy.traffic.append(&mut more.policy.traffic);
        policy.delays = more.policy.delays.or(policy.delays);
        policy.spd = more.policy.spd.or(policy.spd.take());
        keys.packets.append(&mut more.keys.packets);
    }

    /// All of them.
    pub(crate) fn finish(mut self) -> Vec<Push> {
        if !self.current.is_empty() {
            self.full.push(self.current);
        }
        self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isakmp::{PreservedAddress, key_type, payloads, tek_key};

    const DOI: u32 = 2;

    fn traffic(spi: u32) -> (TrafficSa, KeyPacket) {
        let sa = TrafficSa {
            protocol: 17,
            source: ("2001:db8:a::/64".parse().unwrap(), 0),
            destination: ("ff1e::1/128".parse().unwrap(), 5004),
            tunnel: ("fd00::1".parse().unwrap(), "ff1e::1".parse().unwrap()),
            spi,
            lifetime: 3600,
            preserved: PreservedAddress::Destination,
        };
        (sa, KeyPacket::new(key_type::TEK, &spi.to_be_bytes()).with(tek_key::ALGORITHM, &[7; 36]))
    }

    fn delete() -> Delete {
        Delete { doi: DOI, protocol: 1, spis: vec![vec![0, 0, 1, 0]] }
    }

    fn read(chain: &Chain) -> Result<(u32, Push), Malformed> {
        Push::parse(&payloads(chain.first(), chain.bytes(), false).unwrap(), DOI)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut push = Push { deletes: vec![delete()], ..Push::default() };
        let (sa, packet) = traffic(300);
        push.add_traffic(sa.clone(), packet);
        let (number, got) = read(&push.chain(9, DOI)).unwrap();
        assert_eq!((number, &got.deletes, &got.policy.traffic), (9, &push.deletes, &vec![sa]));
        assert_eq!(
            got.keys.packet(key_type::TEK, &300u32.to_be_bytes()).unwrap().key(1, "key"),
            Ok([7; 36].as_slice())
        );
        let only = Push { deletes: vec![delete()], ..Push::default() };
        let (_, got) = read(&only.chain(9, DOI)).unwrap();
        assert!(got.policy.is_empty() && got.deletes.len() == 1);
    }

    #[test]
    fn other_orders_are_refused() {
        let refused = |kinds: &[(u8, &[u8])]| {
            let mut chain = Chain::new();
            kinds.iter().for_each(|(kind, body)| _ = chain.add(*kind, body));
            read(&chain).err().unwrap()
        };
        let sequence: (u8, &[u8]) = (kind::SEQ, &[0, 0, 0, 1]);
        let body = delete().to_body();
        assert_eq!(refused(&[(kind::DELETE, &body), sequence]), Malformed::Missing("SEQ"));
        assert_eq!(refused(&[sequence]), Malformed::Missing("SA"));
        let value = u32::from(kind::SEQ);
        assert_eq!(refused(&[sequence, sequence]), Malformed::Field { field: "Next Payload", value });
        let value = u32::from(kind::KD);
        assert_eq!(refused(&[sequence, (kind::KD, &[0; 4])]), Malformed::Field { field: "Next Payload", value });
        let foreign = Delete { doi: 1, ..delete() }.to_body();
        let field = "DOI of a Delete";
        assert_eq!(refused(&[sequence, (kind::DELETE, &foreign)]), Malformed::Field { field, value: 1 });
        assert_eq!(Push::parse(&[], DOI).err(), Some(Malformed::Missing("SEQ")));
    }

    #[test]
    fn a_delete_is_of_a_rekey_sa_or_of_sas_of_esp() {
        let parsed = |protocol, spi_len| {
            let delete = Delete { doi: DOI, protocol, spis: vec![vec![1; spi_len]; 2] };
            read(&Push { deletes: vec![delete], ..Push::default() }.chain(1, DOI)).map(|_| ())
        };
        assert_eq!((parsed(0, 16), parsed(1, 4)), (Ok(()), Ok(())));
        for protocol in [2, 77] {
            let (field, value) = ("Protocol-Id of a Delete", protocol.into());
            assert_eq!(parsed(protocol, 4), Err(Malformed::Field { field, value }));
        }
        for (protocol, spi_len) in [(0, 4), (1, 16), (1, 5)] {
            let (field, value) = ("SPI Size of a Delete", spi_len as u32);
            assert_eq!(parsed(protocol, spi_len), Err(Malformed::Field { field, value }));
        }
    }

    #[test]
    fn many_sas_fill_few_messages() {
        let mut filling = Filling::default();
        for spi in 256..276 {
            let (sa, packet) = traffic(spi);
            filling.add(|push| push.add_traffic(sa, packet));
        }
        let pushes = filling.finish();
        assert_eq!(pushes.iter().map(|push| push.policy.traffic.len()).collect::<Vec<_>>(), [4, 4, 4, 4, 4]);
        assert!(pushes.iter().all(|push| push.chain(1, DOI).bytes().len() < 1150));
        assert!(Filling::default().finish().is_empty());
    }
}
