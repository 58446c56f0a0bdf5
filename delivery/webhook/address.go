package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"code.dny.dev/ssrf"
)

// policy says which addresses may be dialled. The list of those that may not is
// IANA's, as the library has it, in IPv6 all that is outside of the global
// unicast addresses. (Of github.com/doyensec/safeurl nothing could be used: to
// allow one private address there forbids all public ones, each port has to be
// named, an IPv6 address with a zone makes it panic, and its transport cannot
// be bounded.)
type policy struct {
	names    []string
	prefixes []netip.Prefix
	guardian *ssrf.Guardian
}

// azure answers for the metadata of the machines there, from an address that is
// a public one otherwise. All other clouds' are in special ranges.
var azure = netip.MustParsePrefix("168.63.129.16/32")

// hostName is one that a DNS may know, in lower case. The last part has a letter:
// otherwise it is an address that has been mistyped, or one in disguise (127.1).
var hostName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z_]([a-z0-9_-]*[a-z0-9_])?$`)

// parsePolicy reads the host names, IP addresses and ranges of these that may be
// used although they are private.
func parsePolicy(allow []string) (policy, error) {
	var p policy
	var errs []error
	for _, entry := range allow {
		text := normal(strings.TrimSpace(entry))
		prefix, err := parsePrefix(text)
		switch {
		case err == nil:
			p.prefixes = append(p.prefixes, prefix)
		case hostName.MatchString(text) && len(text) <= 253 && !strings.HasPrefix(text, secretPrefix):
			p.names = append(p.names, text)
		default:
			errs = append(errs, fmt.Errorf("%s holds %s; it is to hold host names in ASCII, IP addresses such as 10.1.2.3 and ranges such as 10.1.0.0/16 or fd12::/48, with commas between them and without ports", allowSetting, shown(entry)))
		}
	}
	v4, v6 := []netip.Prefix{}, []netip.Prefix{}
	for _, prefix := range p.prefixes {
		if prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	p.guardian = ssrf.New(ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...), ssrf.WithDeniedV4Prefixes(azure))
	return p, errors.Join(errs...)
}

func parsePrefix(text string) (netip.Prefix, error) {
	addr, err := netip.ParseAddr(text)
	if err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err == nil && (prefix != prefix.Masked() || prefix.Addr().Is4In6()) {
		err = errors.New("not the first address of its range")
	}
	return prefix, err
}

// shown is an entry for an error message, unless it may be a URL or a secret
// that went into the wrong variable.
func shown(entry string) string {
	if strings.Contains(entry, "//") || strings.ContainsAny(entry, "@=?") || strings.Contains(entry, secretPrefix) || len(entry) > 100 {
		return "an entry (not shown) that is none of these"
	}
	return fmt.Sprintf("%q", entry)
}

// normal is a host name as names are compared.
func normal(host string) string {
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// allows reports whether a host is in the list by itself, and so may also be
// reached without TLS.
func (p policy) allows(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return slices.Contains(p.names, host)
	}
	return slices.ContainsFunc(p.prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(addr.Unmap()) })
}

// checkDial is check for the address of a net.Dialer's Control.
func (p policy) checkDial(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return errRefused{address: "that is no IP address"}
	}
	return p.check(to.Addr())
}

// check refuses an address that is not public and not allowed. An IPv4 address
// inside an IPv6 one counts as itself where it is mapped, or goes through the
// well-known prefix of NAT64, which is how a cluster without IPv4 reaches public
// addresses; all other forms that embed one (6to4, Teredo, NAT64 by a prefix of
// one's own) are refused whatever they embed.
func (p policy) check(addr netip.Addr) error {
	addr = addr.Unmap()
	err := p.guardian.SafeAddr(addr)
	if err != nil && ssrf.IPv6NAT64Prefix.Contains(addr) {
		bytes := addr.As16()
		err = p.guardian.SafeAddr(netip.AddrFrom4([4]byte(bytes[12:])))
	}
	if err != nil {
		return errRefused{address: addr.String()}
	}
	return nil
}

// errRefused is about an address that the policy does not let pass.
type errRefused struct{ address string }

func (e errRefused) Error() string {
	return fmt.Sprintf("its address %s is private or special, and %s holds neither it nor the host", e.address, allowSetting)
}
