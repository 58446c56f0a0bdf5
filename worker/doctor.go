package worker

import (
	"fmt"
	"time"

	"tokenalert/store"
)

// DoctorRequest is what the doctor compares the database with: what a worker of
// this configuration, which must be valid, would do with it.
func (c Config) DoctorRequest() (store.DoctorRequest, error) {
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return store.DoctorRequest{}, fmt.Errorf("time zone: %w", err)
	}
	return store.DoctorRequest{Settings: c.inForce(), Zone: zone, Bell: c.Bell, BellLease: c.BellLease}, nil
}
