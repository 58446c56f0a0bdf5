package line

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
)

// insideEnv names, in a process that Enter has moved, the network that it left.
const insideEnv = "LABORATORY_LEFT"

// namePrefix is that of our namespaces, before the process id.
const namePrefix = "tokenalert-"

// fault is why there are no namespaces.
var fault = "line.Enter was not called"

// NamespaceFault says why packets cannot be dropped on this machine, "" where
// they can.
func NamespaceFault() string { return fault }

// Inside reports whether Enter has moved this process, or one before it. The
// environment alone, which anybody may have set, is not believed: the machine's
// own network must stay as it is.
func Inside() bool {
	left := os.Getenv(insideEnv)
	return strings.HasPrefix(left, "net:[") && left != network()
}

// network identifies the network namespace that this process is in; "" where
// there are none.
func network() string {
	name, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	return name
}

// settle makes a network that was just made one for lines. A new one may have
// taken over the machine's rp_filter, and the stricter of that of all devices
// and of one counts (kernel documentation, ip-sysctl).
func settle(ctx context.Context) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0o644); err != nil {
		return err
	}
	return ip(ctx, "link set lo up")
}

// A namespace is a network of its own, with one neighbour: us.
type namespace struct {
	name        string
	device      string // our end
	here, there string // addresses of our end and of its
}

var namespaces atomic.Int64

func newNamespace(ctx context.Context) (*namespace, error) {
	n := int(namespaces.Add(1))
	base := 4 * n
	address := func(host int) string {
		return fmt.Sprintf("198.%d.%d.%d", 18+(base+host)>>16, (base+host)>>8&255, (base+host)&255)
	}
	ns := &namespace{
		name: fmt.Sprintf("%s%d-%d", namePrefix, os.Getpid(), n), device: fmt.Sprintf("line%d", n),
		here: address(1), there: address(2),
	}
	err := ip(ctx,
		"netns add "+ns.name,
		"link add "+ns.device+" type veth peer name line netns "+ns.name,
		"addr add "+ns.here+"/30 dev "+ns.device,
		"link set "+ns.device+" up",
		"-n "+ns.name+" addr add "+ns.there+"/30 dev line",
		"-n "+ns.name+" link set line up",
		"-n "+ns.name+" link set lo up")
	if err != nil {
		return nil, errors.Join(err, ns.close())
	}
	return ns, nil
}

// drop makes a black hole of the way to the other end. What comes from there
// dies as well, unless oneWay, because the kernel drops what comes from where no
// way leads (rp_filter; RFC 3704, 2.2). Neither side hears of it.
func (ns *namespace) drop(oneWay bool) error {
	filter := "1"
	if oneWay {
		filter = "0"
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+ns.device+"/rp_filter", []byte(filter), 0o644); err != nil {
		return err
	}
	return ip(context.Background(), "route add blackhole "+ns.there+"/32")
}

func (ns *namespace) heal() error {
	return ip(context.Background(), "route del blackhole "+ns.there+"/32")
}

// close removes it, and both ends of the line with it.
func (ns *namespace) close() error { return ip(context.Background(), "netns del "+ns.name) }

// ip runs commands of ip(8).
func ip(ctx context.Context, commands ...string) error {
	for _, command := range commands {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// sweep removes the namespaces of processes that are gone.
func sweep(ctx context.Context) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err != nil {
		return // whoever makes one hears of it
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ours := strings.CutPrefix(name, namePrefix)
		pid, _, _ := strings.Cut(rest, "-")
		if _, err := strconv.Atoi(pid); !ours || err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			_ = ip(ctx, "netns del "+name) // somebody else may sweep as well
		}
	}
}
