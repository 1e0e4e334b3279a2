//! Flows in the course of their life: closing, broken off, half lost, moved.

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use lb_agent::maps::family::Family;
use lb_common::{
    flow::{FlowFlags, FlowKey, FlowVal},
    id::BackendId,
    net::{Addr4, Addr6},
    reason::Counter,
    service::{Backend, BackendFlags},
};

use crate::fixture::{Conversation, Fixture, Step};
use crate::packet::{ACK, FIN, Packet, RST, SYN, Transport, packet};
use crate::rig::Rig;
use crate::world::{Place, Svc, To, places};

const OPEN: Transport = Transport::Tcp(SYN);
const ACCEPT: Transport = Transport::Tcp(SYN | ACK);
const CARRY: Transport = Transport::Tcp(ACK);
const LAST: Transport = Transport::Tcp(FIN | ACK);
const BREAK: Transport = Transport::Tcp(RST);

pub fn fixtures() -> Vec<Fixture> {
    places()
        .into_iter()
        .flat_map(|place| {
            let tcp = Scene::new(place, OPEN);
            let udp = Scene::new(place, Transport::Udp);
            [
                tcp.closes(),
                tcp.half_closes(),
                tcp.is_reset(),
                tcp.survives_a_forged_reset(),
                tcp.repeats_its_opener(),
                tcp.begins_anew_after_its_end(),
                tcp.regains_the_half_of_answers(),
                tcp.regains_the_half_of_the_client(),
                tcp.stays_with_a_backend_that_is_gone(),
                tcp.opens_elsewhere_if_nobody_listens(),
                udp.moves_when_its_backend_is_gone(),
                udp.times_out(),
                tcp.is_met_on_its_own_side_alone(),
            ]
        })
        .collect()
}

struct Scene {
    place: Place,
    opener: Packet,
    flow: Conversation,
}

impl Scene {
    fn new(place: Place, transport: Transport) -> Self {
        let vip = place.dial(Svc::Stack, To::NodePort);
        let opener = packet(transport, place.client_at(), vip);
        let flow = Conversation::of(&opener, place.target(place.local)).with(FlowFlags::LOCAL);
        Self {
            place,
            opener,
            flow,
        }
    }

    fn client_packet(&self, transport: Transport) -> Step {
        let packet = self.opener.clone().transport(transport);
        Step::inbound(&packet).becomes(&packet.clone().to(self.flow.backend))
    }

    fn backend_packet(&self, transport: Transport) -> Step {
        let answer = packet(transport, self.flow.backend, self.flow.client);
        Step::outbound(&answer).becomes(&answer.clone().from(self.flow.dialled))
    }

    fn open(&self) -> Vec<Step> {
        vec![
            self.client_packet(OPEN),
            self.backend_packet(ACCEPT),
            self.client_packet(CARRY),
        ]
    }

    fn fixture(&self, name: &str, steps: Vec<Step>) -> Fixture {
        Fixture::new(format!("flows/{name} IPv{}", self.place.family), steps)
            .counts(Counter::HitChosen, 1)
    }

    fn opened_and(&self, name: &str, more: Vec<Step>) -> Fixture {
        self.fixture(name, [self.open(), more].concat())
    }

    fn closes(&self) -> Fixture {
        let more = vec![
            self.client_packet(LAST),
            self.backend_packet(LAST),
            self.client_packet(CARRY),
        ];
        let flow = self.flow.clone().established();
        self.opened_and("both sides close", more).flow(
            flow.with(FlowFlags::CLIENT_DONE)
                .with(FlowFlags::BACKEND_DONE),
        )
    }

    fn half_closes(&self) -> Fixture {
        let more = vec![self.backend_packet(LAST), self.client_packet(CARRY)];
        let flow = self.flow.clone().established();
        self.opened_and("the backend closes", more)
            .flow(flow.with(FlowFlags::BACKEND_DONE))
    }

    fn is_reset(&self) -> Fixture {
        let flow = self.flow.clone().established();
        self.opened_and("a reset", vec![self.backend_packet(BREAK)])
            .flow(flow.with(FlowFlags::RESET))
    }

    fn survives_a_forged_reset(&self) -> Fixture {
        let more = vec![self.client_packet(BREAK), self.backend_packet(CARRY)];
        self.opened_and("a reset that nobody believed", more)
            .flow(self.flow.clone().established())
    }

    fn repeats_its_opener(&self) -> Fixture {
        let steps = vec![self.client_packet(OPEN), self.client_packet(OPEN)];
        self.fixture("a repeated opener", steps)
            .flow(self.flow.clone())
    }

    fn begins_anew_after_its_end(&self) -> Fixture {
        let more = vec![
            self.client_packet(LAST),
            self.backend_packet(LAST),
            self.client_packet(OPEN),
        ];
        Fixture::new(
            format!(
                "flows/a new connection after the end IPv{}",
                self.place.family
            ),
            [self.open(), more].concat(),
        )
        .counts(Counter::HitChosen, 2)
        .flow(self.flow.clone())
    }

    fn regains_the_half_of_answers(&self) -> Fixture {
        let is_v4 = self.place.family == 4;
        let steps = vec![
            self.client_packet(OPEN),
            self.backend_packet(ACCEPT),
            self.client_packet(CARRY)
                .after(move |rig| lose(rig, is_v4, FlowFlags::REPLY)),
            self.backend_packet(CARRY),
        ];
        self.fixture("the half of answers is lost", steps)
            .flow(self.flow.clone().established())
    }

    fn regains_the_half_of_the_client(&self) -> Fixture {
        let is_v4 = self.place.family == 4;
        let steps = vec![
            self.client_packet(OPEN),
            self.backend_packet(ACCEPT)
                .after(move |rig| lose(rig, is_v4, FlowFlags::default())),
            self.client_packet(CARRY),
        ];
        self.fixture("the half of the client is lost", steps)
            .flow(self.flow.clone().established())
    }

    fn stays_with_a_backend_that_is_gone(&self) -> Fixture {
        let more = vec![self.client_packet(CARRY).after(self.backend_gone())];
        self.opened_and("an established flow whose backend is gone", more)
            .flow(self.flow.clone().established())
    }

    /// A Service of one endpoint: chosen again, but by a new decision.
    fn opens_elsewhere_if_nobody_listens(&self) -> Fixture {
        let steps = [
            self.client_packet(OPEN),
            self.client_packet(OPEN).after(self.backend_gone()),
        ];
        Fixture::new(
            format!(
                "flows/an opener that nobody answered is decided anew IPv{}",
                self.place.family
            ),
            steps,
        )
        .counts(Counter::HitChosen, 2)
        .flow(self.flow.clone())
    }

    fn moves_when_its_backend_is_gone(&self) -> Fixture {
        let udp = Transport::Udp;
        let steps = [
            self.client_packet(udp),
            self.backend_packet(udp),
            self.client_packet(udp).after(self.backend_gone()),
        ];
        Fixture::new(
            format!(
                "flows/UDP is decided anew when its backend is gone IPv{}",
                self.place.family
            ),
            steps,
        )
        .counts(Counter::HitChosen, 2)
        .counts(Counter::FlowMoved, 1)
        .flow(self.flow.clone())
    }

    /// A flow that ended long ago has not moved, but it is counted alike.
    fn times_out(&self) -> Fixture {
        let is_v4 = self.place.family == 4;
        let udp = Transport::Udp;
        let steps = [
            self.client_packet(udp),
            self.client_packet(udp).after(move |rig| age(rig, is_v4)),
        ];
        Fixture::new(
            format!(
                "flows/UDP that timed out is decided anew IPv{}",
                self.place.family
            ),
            steps,
        )
        .counts(Counter::HitChosen, 2)
        .counts(Counter::FlowMoved, 1)
        .flow(self.flow.clone())
    }

    /// The packets of one half on the other side of the node are somebody else's business.
    fn is_met_on_its_own_side_alone(&self) -> Fixture {
        let answer = packet(CARRY, self.flow.backend, self.flow.client);
        let steps = [
            self.client_packet(OPEN),
            Step::inbound(&answer),
            Step::at_lb0(&answer),
            Step::outbound(&self.opener.clone().transport(CARRY)),
            Step::at_lb0(&self.opener.clone().transport(CARRY)),
        ];
        self.fixture("only one side translates", steps.to_vec())
            .flow(self.flow.clone())
    }

    /// Takes the flag that it serves off the backend, until the agent's next word.
    fn backend_gone(&self) -> impl Fn(&mut Rig) -> Result<()> + Send + Sync + 'static {
        let is_v4 = self.place.family == 4;
        move |rig| {
            if is_v4 {
                stop_serving::<Addr4>(rig)
            } else {
                stop_serving::<Addr6>(rig)
            }
        }
    }
}

fn lose(rig: &Rig, is_v4: bool, half: FlowFlags) -> Result<()> {
    if is_v4 {
        lose_half::<Addr4>(rig, half)
    } else {
        lose_half::<Addr6>(rig, half)
    }
}

fn lose_half<A: Family>(rig: &Rig, half: FlowFlags) -> Result<()>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    for (key, val) in rig.entries::<FlowKey<A>, FlowVal<A>>(A::MAPS.embryos)? {
        if val.flags.has(FlowFlags::REPLY) == half.has(FlowFlags::REPLY) {
            rig.delete::<_, FlowVal<A>>(A::MAPS.embryos, &key)?;
        }
    }
    Ok(())
}

fn age(rig: &Rig, is_v4: bool) -> Result<()> {
    if is_v4 {
        age_family::<Addr4>(rig)
    } else {
        age_family::<Addr6>(rig)
    }
}

fn age_family<A: Family>(rig: &Rig) -> Result<()>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    for (key, mut val) in rig.entries::<FlowKey<A>, FlowVal<A>>(A::MAPS.embryos)? {
        val.seen_s = val.seen_s.saturating_sub(31);
        rig.put(A::MAPS.embryos, &key, &val)?;
    }
    Ok(())
}

fn stop_serving<A: Family>(rig: &mut Rig) -> Result<()>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    let embryos = rig.entries::<FlowKey<A>, FlowVal<A>>(A::MAPS.embryos)?;
    let flows = rig.entries::<FlowKey<A>, FlowVal<A>>(A::MAPS.flows)?;
    let (_, flow) = embryos.iter().chain(&flows).next().context("no flow")?;
    let id: BackendId = flow.backend;
    serve::<A>(rig, id, false)?;
    rig.put_until_reset(move |rig| serve::<A>(rig, id, true));
    Ok(())
}

fn serve<A: Family>(rig: &Rig, id: BackendId, serves: bool) -> Result<()> {
    let backends = rig.entries::<u32, A::Backend>(A::MAPS.backends)?;
    let (_, backend) = backends
        .into_iter()
        .find(|(index, _)| *index == id.0)
        .context("no backend")?;
    let mut backend: Backend<A> = backend.into();
    backend.flags = backend.flags.set(BackendFlags::SERVING, serves);
    rig.put(A::MAPS.backends, &id.0, &A::Backend::from(backend))
}
