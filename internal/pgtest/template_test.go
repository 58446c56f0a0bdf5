package pgtest

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABrokenTemplateFailsEveryTestAndIsBuiltOnce(t *testing.T) {
	t.Parallel()
	errBroken := errors.New("broken")
	builds := 0
	tpl := Template{Name: "broken", Build: func(context.Context, string) error {
		builds++
		return errBroken
	}}
	in := sharedInstance(t)
	for range 2 {
		err := in.built(tpl)
		require.ErrorIs(t, err, errBroken)
		require.ErrorContains(t, err, "build template broken")
	}
	assert.Equal(t, 1, builds)
}
