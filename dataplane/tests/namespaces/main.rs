//! Tests in network namespaces of their own: real interfaces, real kernel, nothing left behind. They need root and
//! /dev/net/tun; without, they say SKIP and why.

mod block;
mod bypass;
mod flows;
mod forge;
mod hostile;
mod lab;
mod net;
mod own;
mod tunnel;
mod unicast;
