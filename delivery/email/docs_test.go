package email

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// What docs/email.md promises templates is what they get.
func TestDocsListThePlaceholders(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/email.md")
	require.NoError(t, err)
	body, listed := "", map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\{\\{(\\w+)\\}\\})` \\|").FindAllStringSubmatch(string(text), -1) {
		body += row[1]
		listed[row[2]] = true
	}
	_, unknown := Compose(someFacts(), &Template{Body: body})
	require.Empty(t, unknown)

	known := slices.Collect(maps.Keys(someFacts().Values))
	for _, name := range placeholder.FindAllStringSubmatch(pageStart+pageButton+pageOrganization+"{{recipient_name}}", -1) {
		known = append(known, name[1])
	}
	slices.Sort(known)
	require.Equal(t, slices.Compact(known), slices.Sorted(maps.Keys(listed)))
}
