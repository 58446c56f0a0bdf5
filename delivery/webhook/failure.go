package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxRetryAfter bounds what a receiver can ask for: deliveries are tried for a
// day, and one that waits longer than this may miss its end.
const maxRetryAfter = time.Hour

// failure is why a delivery did not succeed, in words of ours: what a receiver
// writes, and a URL, may hold secrets.
type failure struct {
	host       string
	reason     string
	status     int // of the answer; 0 where there was none
	permanent  bool
	retryAfter time.Duration
	given      error // what the context said, or nil
}

func (f *failure) Error() string { return "webhook to " + f.host + ": " + f.reason }

func (f *failure) Unwrap() error { return f.given }

// Permanent reports whether err, of Send, will be the same at the next attempt:
// the receiver answered 410 Gone, the policy refuses every address of the host,
// or the body is too large. All else may be mended at the other end within the
// day that deliveries are tried, also a 404 or a 401 of a receiver whose new
// release or secret is on its way.
func Permanent(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.permanent
}

// RetryAfter is how long the receiver asked to be left alone, with 429 or 503:
// an hour at most. It reports false where it did not ask.
func RetryAfter(err error) (time.Duration, bool) {
	f, ok := errors.AsType[*failure](err)
	if !ok || f.retryAfter <= 0 {
		return 0, false
	}
	return f.retryAfter, true
}

// Advice is what can be done about err, of Send, where the error does not say it.
func Advice(err error) string {
	f, ok := errors.AsType[*failure](err)
	switch {
	case !ok || f.permanent && f.status == 0:
		return ""
	case f.status == 0:
		return "see that " + urlSetting + " has the right host and port, that a firewall lets this machine reach it, and that its certificate is by an authority that this machine trusts (SSL_CERT_FILE names others)"
	case f.status == http.StatusUnauthorized, f.status == http.StatusForbidden:
		return "see that the receiver verifies with the secret in " + secretSetting + ", and that both clocks are right"
	case f.status == http.StatusNotFound, f.status == http.StatusMethodNotAllowed:
		return "see that the path in " + urlSetting + " is where the receiver takes a POST"
	case f.status == http.StatusGone:
		return "so the receiver says that it wants no more"
	case f.status >= 400:
		return "the receiver's own log may say why"
	}
	return ""
}

// answered is the failure that an answer stands for, or nil.
func answered(host string, status int, header http.Header) error {
	f := &failure{host: host, status: status, reason: "it answered " + strconv.Itoa(status)}
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		f.reason += ": redirects are not followed; " + urlSetting + " is to be where they lead"
	case status == http.StatusGone:
		f.permanent = true
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		f.retryAfter = parseRetryAfter(header.Get("Retry-After"), time.Now())
	}
	return f
}

// parseRetryAfter reads both forms of the header (RFC 9110, section 10.2.3),
// and gives 0 for what is neither, or is over.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second //nolint:gosec // it is an hour at most
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// unanswered is the failure of a request that got no answer.
func unanswered(host string, err error) error {
	f := &failure{host: host, reason: reason(err)}
	if _, refused := errors.AsType[errRefused](err); refused {
		f.permanent = true
	}
	for _, given := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, given) {
			f.given = given
		}
	}
	return f
}

// reason names the kinds of error that an operator would act on differently.
// Their own texts stay out: net/http quotes the answer, and the request's URL.
func reason(err error) string {
	if refused, ok := errors.AsType[errRefused](err); ok {
		return refused.Error()
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		if lookup.IsNotFound {
			return "the DNS does not know its name"
		}
		return "its name could not be looked up"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "its certificate has expired or is not valid yet"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is of another name"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is by an authority that is not trusted"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate is not valid"
	}
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	if noTLS || errors.Is(err, http.ErrSchemeMismatch) {
		return "it does not speak TLS"
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return "it ended the TLS handshake"
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "it did not answer in time"
	}
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number.Error()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "the attempt was given up"
	case errors.Is(err, errUnreachable):
		return errUnreachable.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection without an answer"
	}
	return "its answer cannot be read as HTTP"
}
