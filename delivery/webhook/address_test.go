package webhook

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address string
		allow   string
		passes  bool
	}{
		// Public.
		{address: "93.184.216.34", passes: true},
		{address: "2606:2800:220:1:248:1893:25c8:1946", passes: true},
		{address: "::ffff:93.184.216.34", passes: true},
		{address: "64:ff9b::5db8:d822", passes: true}, // NAT64 of a public one
		// Special.
		{address: "0.0.0.0"},
		{address: "0.1.2.3"},
		{address: "10.1.2.3"},
		{address: "100.64.0.1"}, // CGNAT
		{address: "127.0.0.1"},
		{address: "127.255.255.254"},
		{address: "169.254.1.1"},
		{address: "172.16.0.1"},
		{address: "172.31.255.255"},
		{address: "192.0.0.8"},
		{address: "192.168.0.1"},
		{address: "198.18.0.1"},
		{address: "224.0.0.1"},
		{address: "240.0.0.1"},
		{address: "255.255.255.255"},
		{address: "::"},
		{address: "::1"},
		{address: "fc00::1"},
		{address: "fd12:3456::1"},
		{address: "fe80::1"},
		{address: "fe80::1%eth0"},
		{address: "fec0::1"}, // site-local, as it once was
		{address: "ff02::1"},
		{address: "2001:db8::1"},
		{address: "2001::1"}, // Teredo
		{address: "100::1"},
		// Metadata of clouds.
		{address: "169.254.169.254"},
		{address: "fd00:ec2::254"},
		{address: "100.100.100.200"},
		{address: "192.0.0.192"},
		{address: "168.63.129.16"},
		// An IPv4 address in an IPv6 one.
		{address: "::ffff:10.1.2.3"},
		{address: "::ffff:127.0.0.1"},
		{address: "::ffff:168.63.129.16"},
		{address: "::10.1.2.3"},
		{address: "::127.0.0.1"},
		{address: "64:ff9b::a01:203"},
		{address: "64:ff9b::7f00:1"},
		{address: "64:ff9b::a9fe:a9fe"},
		{address: "64:ff9b::a83f:8110"},
		{address: "64:ff9b:1::a01:203"},
		{address: "2002:a01:203::1"},
		{address: "2002:7f00:1::"},
		// Allowed: it and no more.
		{address: "10.1.2.3", allow: "10.1.2.3", passes: true},
		{address: "10.1.2.4", allow: "10.1.2.3"},
		{address: "::ffff:10.1.2.3", allow: "10.1.2.3", passes: true},
		{address: "10.1.2.3", allow: "::ffff:10.1.2.3", passes: true},
		{address: "64:ff9b::a01:203", allow: "10.1.2.3", passes: true},
		{address: "10.1.255.255", allow: "10.1.0.0/16", passes: true},
		{address: "10.2.0.0", allow: "10.1.0.0/16"},
		{address: "fd12::1", allow: "fd12::/16", passes: true},
		{address: "fd13::1", allow: "fd12::/16"},
		{address: "fe80::1%eth0", allow: "fe80::/10"},
		{address: "168.63.129.16", allow: "168.63.129.16", passes: true},
		{address: "93.184.216.34", allow: "10.1.2.3", passes: true}, // to allow forbids nothing
		{address: "127.0.0.1", allow: "localhost"},                  // only what is dialled by that name
	} {
		t.Run(c.address+" "+strings.ReplaceAll(c.allow, "/", "_"), func(t *testing.T) {
			t.Parallel()
			var allow []string
			if c.allow != "" {
				allow = []string{c.allow}
			}
			p, err := parsePolicy(allow)
			require.NoError(t, err)
			err = p.checkDial(netip.AddrPortFrom(netip.MustParseAddr(c.address), 443).String())
			if c.passes {
				require.NoError(t, err)
			} else {
				require.ErrorAs(t, err, new(errRefused))
			}
		})
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{
		"localhost", "hooks.internal", "Hooks.Internal.", " hooks.internal ", "a_b.svc.cluster.local", "xn--bcher-kva.example",
		"10.1.2.3", "10.0.0.0/8", "::1", "fd12::/48", "0.0.0.0/0",
	} {
		_, err := parsePolicy([]string{entry})
		require.NoError(t, err, entry)
	}
	for _, entry := range []string{
		"", " ", "10.1.2", "10.1.2.3/8", "10.1.2.3/33", "300.1.1.1", "127.1", "2130706433", "0x7f.1", "fe80::1%eth0", "::ffff:10.0.0.0/104",
		"[::1]", "localhost:8080", "10.1.2.3:80", "*.internal", "-a.internal", "a..b", ".a", "bücher.example", "a b", "a\nb",
		strings.Repeat("a", 254),
	} {
		_, err := parsePolicy([]string{"localhost", entry})
		require.ErrorContains(t, err, "TOKENALERT_WEBHOOK_ALLOW holds", entry)
		assert.NotContains(t, err.Error(), "\n")
	}
	for _, entry := range []string{"https://hooks.example.com/t0ken", "ana:t0ken@internal", "whsec_t0ken", "/path?key=t0ken"} {
		_, err := parsePolicy([]string{entry})
		require.ErrorContains(t, err, "(not shown)", entry)
		assert.NotContains(t, err.Error(), "t0ken")
	}
}

// Whatever is allowed, it is refused in one line, or it lets pass what it says
// and nothing special beside it.
func FuzzAllow(f *testing.F) {
	for _, entry := range []string{"", "localhost", "10.1.2.3", "10.0.0.0/8", "::1", "fd12::/48", "::ffff:10.1.2.3", "10.1.2.3/8", "fe80::1%eth0", "\xff", "a.b", "0x7f.1"} {
		f.Add(entry, "10.1.2.3")
		f.Add(entry, "::ffff:127.0.0.1")
	}
	f.Fuzz(func(t *testing.T, entry, address string) {
		p, err := parsePolicy([]string{entry})
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		addr, err := netip.ParseAddr(address)
		if err != nil || p.check(addr) != nil {
			return
		}
		none, err := parsePolicy(nil)
		require.NoError(t, err)
		if none.check(addr) == nil {
			return
		}
		prefix, err := parsePrefix(normal(strings.TrimSpace(entry)))
		require.NoError(t, err, "%q let %s pass", entry, address)
		inner := addr.Unmap()
		if !prefix.Contains(inner) {
			bytes := addr.As16()
			inner = netip.AddrFrom4([4]byte(bytes[12:]))
		}
		require.True(t, prefix.Contains(inner), "%q let %s pass", entry, address)
	})
}
