package cluster

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/berth-dev/berth/process"
)

// Network is the N of a cluster's addresses, 10.N.0.0/16.
type Network int

// Addresses are those of one cluster.
type Addresses struct {
	Node       string // of kubelet and the API server
	DNS        string
	Pods       string // the network of all of the above and of pods
	FirstPod   string
	Services   string // a network
	APIService string
	DNSService string
	Machine    string // where pods and webhooks reach programs of the machine
	Link       string // the node's end of that connection
}

// Addresses derives them from the network.
func (n Network) Addresses() Addresses {
	return Addresses{
		Node:       n.address("0.1"),
		DNS:        n.address("0.53"),
		Pods:       n.address("0.0/24"),
		FirstPod:   n.address("0.64"),
		Services:   n.address("16.0/20"),
		APIService: n.address("16.1"),
		DNSService: n.address("16.10"),
		Machine:    n.address("1.1"),
		Link:       n.address("1.2"),
	}
}

// Name is that of the veth pair's ends and of the cgroups.
func (n Network) Name() string { return "berth" + strconv.Itoa(int(n)) }

func (n Network) String() string { return n.address("0.0/16") }

func (n Network) address(rest string) string { return "10." + strconv.Itoa(int(n)) + "." + rest }

var errTaken = errors.New("the addresses are in use on this machine")

// claim holds the network for this process, in a place that the kernel clears:
// the machine's abstract sockets.
func (n Network) claim() (io.Closer, error) {
	socket, err := net.Listen("unix", "@"+n.Name())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("claiming network %s: %w", n, errTaken)
	}
	if err != nil {
		return nil, fmt.Errorf("claiming network %s: %w", n, err)
	}
	return socket, nil
}

// sweep takes away what a node with this network has on the machine. Only the
// holder of the claim may call it.
func (n Network) sweep(ctx context.Context) error {
	return errors.Join(n.disconnect(ctx), n.removeCgroups(ctx))
}

// sweepUnclaimed sweeps unless another cluster has the network by now.
func (n Network) sweepUnclaimed() error {
	claim, err := n.claim()
	if errors.Is(err, errTaken) {
		return nil
	}
	if err != nil {
		return err
	}
	defer claim.Close()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	return n.sweep(ctx)
}

func networks() []Network {
	var all []Network
	for n := Network(142); n < 256; n++ {
		all = append(all, n)
	}
	return all
}

func (n Network) taken() (bool, error) {
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return false, fmt.Errorf("reading routes: %w", err)
	}
	return n.overlaps(string(routes))
}

// overlaps looks through the kernel's table of IPv4 routes, which tells
// addresses as little-endian hexadecimal numbers.
func (n Network) overlaps(routes string) (bool, error) {
	own := netip.MustParsePrefix(n.String())
	for line := range strings.Lines(routes) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[0] == "Iface" {
			continue
		}
		destination, err := hex.DecodeString(fields[1])
		if err != nil || len(destination) != 4 {
			return false, fmt.Errorf("reading route %q", strings.TrimSpace(line))
		}
		mask, err := strconv.ParseUint(fields[7], 16, 32)
		if err != nil {
			return false, fmt.Errorf("reading route %q: %w", strings.TrimSpace(line), err)
		}
		bits := 0
		for ; mask != 0; mask >>= 1 {
			bits += int(mask & 1)
		}
		var address [4]byte
		binary.BigEndian.PutUint32(address[:], binary.LittleEndian.Uint32(destination))
		// The default route is everybody's.
		if bits > 0 && netip.PrefixFrom(netip.AddrFrom4(address), bits).Overlaps(own) {
			return true, nil
		}
	}
	return false, nil
}

// connect makes the veth pair between this network namespace and that of the
// process, and the routes to what is behind it.
func (n Network) connect(ctx context.Context, pid int) error {
	err := ip(ctx, "link", "add", n.Name(), "type", "veth", "peer", "name", n.Name(), "netns", strconv.Itoa(pid))
	if err != nil {
		return err
	}
	at := n.Addresses()
	for _, args := range [][]string{
		{"address", "add", at.Machine + "/30", "dev", n.Name()},
		{"link", "set", n.Name(), "up"},
		{"route", "add", at.Pods, "via", at.Link},
		{"route", "add", at.Services, "via", at.Link},
	} {
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// disconnect also succeeds when the kernel has deleted the pair already, with
// the node's namespace.
func (n Network) disconnect(ctx context.Context) error {
	if err := ip(ctx, "link", "delete", n.Name()); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
		return err
	}
	return nil
}

func ip(ctx context.Context, args ...string) error {
	var said strings.Builder
	if err := process.Run(ctx, process.Spec{Path: "ip", Args: args, Log: &said}); err != nil {
		err = fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
		if strings.Contains(said.String(), "File exists") {
			return errors.Join(errTaken, err)
		}
		return err
	}
	return nil
}
