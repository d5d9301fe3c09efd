package backend

import (
	"errors"
	"time"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

// secondLook is how soon a finding that needs a person is looked at again: the
// person may mend the server, which no watch tells.
const secondLook = time.Minute

// Outcome turns the error of a backend or server into a step's outcome, with
// stable text that says whether waiting helps.
func Outcome(err error) step.Outcome {
	fault := postgres.Explain(err)
	if fault.Permanent {
		return step.Blocked(fault.Reason, "%s", fault.Message).Again(secondLook)
	}
	return step.Failed(fault.Reason, errors.New(fault.Message))
}

// Finding turns a server that is not usable into a step's outcome.
func (o Observed) Finding() step.Outcome {
	if o.Permanent {
		return step.Blocked(o.Reason, "%s", o.Message).Again(secondLook)
	}
	return step.Wait(secondLook, o.Reason, "%s", o.Message)
}
