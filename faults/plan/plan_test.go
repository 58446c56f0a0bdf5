package plan

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestASeedIsASchedule(t *testing.T) {
	for seed := range uint64(200) {
		p := New(seed, FaultKinds)
		assert.Equal(t, p, New(seed, FaultKinds))
		assert.GreaterOrEqual(t, len(p.Faults), 4)
		kinds := map[FaultKind]int{}
		for _, f := range p.Faults {
			kinds[f.Kind]++
		}
		assert.GreaterOrEqual(t, len(kinds), 2)
		for w, ops := range p.Writers {
			for _, op := range ops {
				if p.Bell {
					assert.NotEqual(t, Prepare, op.Kind)
				}
				for _, r := range op.Rows {
					owner := p.Users[r.User].Owner
					assert.True(t, owner == w || owner == Shared, "writer %d uses what %d owns", w, owner)
				}
			}
		}
	}
}

func TestEverySortOfThingHappens(t *testing.T) {
	ops, faults := map[OpKind]int{}, map[FaultKind]int{}
	for seed := range uint64(200) {
		p := New(seed, FaultKinds)
		for _, w := range p.Writers {
			for _, op := range w {
				ops[op.Kind]++
			}
		}
		for _, f := range p.Faults {
			faults[f.Kind]++
		}
	}
	for _, kind := range []OpKind{
		Insert, Call, Copy, Bulk, Savepoints, Rollback, Prepare, Long, ChangeTokens, MoveRow, DeleteRows,
		Truncate, Rewrite, SetLimit, SetResetDay, DeleteUser, DeleteOrg, HoldUser, Backlog,
	} {
		assert.GreaterOrEqual(t, ops[kind], 10, kind)
	}
	for _, kind := range FaultKinds {
		assert.GreaterOrEqual(t, faults[kind], 10, kind)
	}
}
