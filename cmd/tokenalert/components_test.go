package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/delivery"
)

// TestTheComponentsSetUpEachChannel: what deploy/components/delivery has mounted is
// what the binary reads, and the Secret that docs/operations.md makes has it all.
func TestTheComponentsSetUpEachChannel(t *testing.T) {
	t.Parallel()
	contents := map[string]string{
		"notifications-url": "postgres://tokenalert_bell@lms.example.com/lms", "smtp-url": "smtps://alerts@mail.example.com",
		"webhook-url": "https://hooks.example.com/alerts", "webhook-secret": "whsec_" + strings.Repeat("c2VjcmV0", 4),
	}
	folder := t.TempDir()
	for key, content := range contents {
		require.NoError(t, os.WriteFile(filepath.Join(folder, key), []byte(content+"\n"), 0o600))
		assert.Contains(t, operations(t), " --from-file="+key)
	}
	components, err := filepath.Glob("../../deploy/components/delivery/*/kustomization.yaml")
	require.NoError(t, err)
	var set []string
	for _, component := range components {
		text, err := os.ReadFile(component)
		require.NoError(t, err)
		environment := []string{"DATABASE_URL=postgres:///cms", "TOKENALERT_EMAIL_FROM=alerts@example.com"}
		for _, variable := range regexp.MustCompile(`- name: (\w+)\n\s+value: /etc/tokenalert/delivery/(\S+)\n`).FindAllStringSubmatch(string(text), -1) {
			environment = append(environment, variable[1]+"="+filepath.Join(folder, variable[2]))
			delete(contents, variable[2])
		}
		for _, literal := range regexp.MustCompile(`- (TOKENALERT_\w+=\S+)\n`).FindAllStringSubmatch(string(text), -1) {
			environment = append(environment, literal[1])
		}
		s, err := loadSettings(environment)
		require.NoError(t, err, component)
		set = append(set, s.channels().Names()...)
	}
	assert.ElementsMatch(t, delivery.Names(), set)
	assert.Empty(t, contents, "keys that no component mounts")
}
