package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	defaultTimeout = 10 * time.Second
	// maxBody is what the specification recommends as the most to send.
	maxBody = 20 << 10
	// maxAnswer is what is read of an answer, only so that the connection can be
	// used again.
	maxAnswer = 4 << 10
	// maxAnswerHeader bounds what has to be read.
	maxAnswerHeader = 16 << 10
)

// Options are what a Client is made of.
type Options struct {
	URL     string
	Secrets Secrets
	// Allow are host names, IP addresses and ranges of these (CIDR) that may be
	// private, and reached without TLS if the URL names them.
	Allow []string
	// Timeout is for an attempt in all; 0 is 10 s.
	Timeout time.Duration
	// RootCAs are whose certificates are trusted; nil is the system's.
	RootCAs *x509.CertPool
}

// Client sends to one endpoint. It is safe for concurrent use.
type Client struct {
	url     string
	host    string
	secrets Secrets
	timeout time.Duration
	http    *http.Client
}

// New checks all that can be checked without sending. Its errors name the
// setting, and show nothing of a secret, and of a URL its host and port at most.
func New(o Options) (*Client, error) { return newClient(o, nil) }

// newClient takes a resolver for tests whose DNS lies; nil is the system's.
func newClient(o Options, resolver *net.Resolver) (*Client, error) {
	policy, err := parsePolicy(o.Allow)
	to, urlErr := policy.endpoint(o.URL)
	if err = errors.Join(err, urlErr); err != nil {
		return nil, err
	}
	if len(o.Secrets.signers) == 0 {
		return nil, errors.New(secretSetting + " is not given; requests are not sent unsigned")
	}
	host := normal(to.Hostname())
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	dial := policy.dialer(host, resolver, timeout)
	return &Client{
		url: to.String(), host: host, secrets: o.Secrets, timeout: timeout,
		http: &http.Client{
			// The answer is a failure that names its status.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			// Proxy is left out: through one, the address that is dialled would be the
			// proxy's. So is HTTP/2, which small requests to one host gain nothing by.
			Transport: &http.Transport{
				DialContext:            dial,
				TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    timeout,
				MaxIdleConnsPerHost:    2,
				IdleConnTimeout:        30 * time.Second, // and so follows the DNS
				MaxResponseHeaderBytes: maxAnswerHeader,
				DisableCompression:     true,
			},
		},
	}, nil
}

// CheckAllow says what is wrong with Options.Allow, and CheckURL with
// Options.URL beside such a list, as New does.
func CheckAllow(allow []string) error {
	_, err := parsePolicy(allow)
	return err
}

// CheckURL leaves out of allow what CheckAllow finds wrong.
func CheckURL(text string, allow []string) error {
	policy, _ := parsePolicy(allow)
	_, err := policy.endpoint(text)
	return err
}

// endpoint is a URL that may be posted to, as far as that can be said without
// the DNS.
func (p policy) endpoint(text string) (*url.URL, error) {
	to, err := parseURL(text)
	if err != nil {
		return nil, err
	}
	host := normal(to.Hostname())
	if to.Scheme == "http" && !p.allows(host) {
		return nil, fmt.Errorf("%s is http to %s; it must be https, or %s must hold that host", urlSetting, host, allowSetting)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if err := p.check(addr); err != nil {
			return nil, fmt.Errorf("%s: %w", urlSetting, err)
		}
	}
	return to, nil
}

// parseURL says nothing of path, query and user in its errors: they may be secret.
func parseURL(text string) (*url.URL, error) {
	to, err := url.Parse(text)
	switch {
	case err != nil || to.Scheme != "https" && to.Scheme != "http" || to.Hostname() == "":
		return nil, fmt.Errorf("%s (not shown) must be a URL such as https://hooks.example.com/path", urlSetting)
	case strings.ContainsFunc(to.Hostname(), func(r rune) bool { return r > unicode.MaxASCII }):
		return nil, fmt.Errorf("%s (not shown) must have its host in ASCII (xn--…)", urlSetting)
	}
	if port := to.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%s (not shown) has port %s; it must be from 1 to 65535", urlSetting, port)
		}
	}
	return to, nil
}

// errUnreachable is of a host one of whose addresses is refused, and the others
// do not answer. It may answer at the next attempt.
var errUnreachable = errors.New("none of its addresses that may be used can be reached")

// dialer checks each address as it is dialled, after the name was looked up: no
// second look-up can yield another. A host that is allowed by name may have any.
func (p policy) dialer(host string, resolver *net.Resolver, timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	byName := p.allows(host)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var tried atomic.Bool
		dialer := net.Dialer{
			Resolver: resolver,
			Timeout:  timeout, // net/http takes the deadline of the request off the dial
			Control: func(_, address string, _ syscall.RawConn) error {
				if !byName {
					if err := p.checkDial(address); err != nil {
						return err
					}
				}
				tried.Store(true)
				return nil
			},
		}
		conn, err := dialer.DialContext(ctx, network, address)
		// Of several addresses, the first one's error comes back.
		if _, refused := errors.AsType[errRefused](err); refused && tried.Load() {
			return nil, errUnreachable
		}
		return conn, err
	}
}

// Send posts body, the JSON of an Event, signed. id is the alert's, at each
// attempt the same; at is the time of this attempt, which receivers compare with
// their clock. A nil error means that the receiver answered 2xx. Other errors
// name the host and the status, and nothing else of either side: see Permanent
// and RetryAfter.
func (c *Client) Send(ctx context.Context, id string, at time.Time, body []byte) error {
	if len(body) > maxBody {
		return &failure{host: c.host, reason: fmt.Sprintf("the body has %d bytes and may have %d", len(body), maxBody), permanent: true}
	}
	signature, err := c.secrets.sign(id, at, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return unanswered(c.host, err)
	}
	request.Header = http.Header{
		"Content-Type": {"application/json"},
		"User-Agent":   {"tokenalert"},
		// Not sent: tells net/http that it may send again where the receiver had
		// closed an idle connection.
		"Idempotency-Key": {},
	}
	request.Header.Set(standardwebhooks.HeaderWebhookID, id)
	request.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	request.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	response, err := c.http.Do(request)
	if err != nil {
		return unanswered(c.host, err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := answered(c.host, response.StatusCode, response.Header); err != nil {
		return err
	}
	// It has been received, whatever becomes of the rest of the answer.
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer)
	return nil
}

// Host is where c sends to.
func (c *Client) Host() string { return c.host }

// Close gives back connections that are kept for later.
func (c *Client) Close() { c.http.CloseIdleConnections() }
