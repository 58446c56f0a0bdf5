package webhook

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The settings, as errors name them.
const (
	urlSetting    = "TOKENALERT_WEBHOOK_URL"
	secretSetting = "TOKENALERT_WEBHOOK_SECRET" //nolint:gosec // it is the name of one
	allowSetting  = "TOKENALERT_WEBHOOK_ALLOW"
)

const secretPrefix = "whsec_"

// Secrets are what requests are signed with: one, or the two that are valid
// while one replaces the other. They cannot be printed.
type Secrets struct {
	signers []*standardwebhooks.Webhook
}

// ParseSecrets reads one or two secrets with white space between them, each
// whsec_ and the base64 of 24 to 64 bytes. Its errors show nothing of them.
func ParseSecrets(text string) (Secrets, error) {
	fields := strings.Fields(text)
	if len(fields) < 1 || len(fields) > 2 {
		return Secrets{}, fmt.Errorf("%s holds %d secrets; it is to hold one, or while that is replaced two with a space between them", secretSetting, len(fields))
	}
	var s Secrets
	var keys [][]byte
	for i, field := range fields {
		encoded, found := strings.CutPrefix(field, secretPrefix)
		key, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if !found || err != nil || len(key) < 24 || len(key) > 64 {
			// Not even the decoder's error: it says how much of the secret is well formed.
			return Secrets{}, fmt.Errorf("%s: secret %d of %d (not shown) must be %s and the padded base64 of 24 to 64 random bytes", secretSetting, i+1, len(fields), secretPrefix)
		}
		signer, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			return Secrets{}, fmt.Errorf("%s: secret %d of %d (not shown) cannot sign", secretSetting, i+1, len(fields))
		}
		s.signers, keys = append(s.signers, signer), append(keys, key)
	}
	if len(keys) == 2 && bytes.Equal(keys[0], keys[1]) {
		return Secrets{}, errors.New(secretSetting + " holds the same secret (not shown) twice; it is to hold one, or two that differ")
	}
	return s, nil
}

// sign returns the value of webhook-signature: a signature for each secret.
func (s Secrets) sign(id string, at time.Time, body []byte) (string, error) {
	signatures := make([]string, len(s.signers))
	for i, signer := range s.signers {
		var err error
		if signatures[i], err = signer.Sign(id, at, body); err != nil {
			return "", fmt.Errorf("sign webhook %s: %w", id, err)
		}
	}
	return strings.Join(signatures, " "), nil
}

// String and GoString keep secrets out of whatever prints a struct of settings.
func (Secrets) String() string { return "(not shown)" }

// GoString implements fmt.GoStringer.
func (s Secrets) GoString() string { return s.String() }
