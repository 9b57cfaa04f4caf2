package main

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func virtualMachine(id string) *simulator.VirtualMachine {
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: id}
	vm, _ := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	return vm
}

func byName(name string) *simulator.VirtualMachine {
	for _, one := range simulator.Map.All("VirtualMachine") {
		if one.Entity().Name == name {
			return one.(*simulator.VirtualMachine)
		}
	}
	return nil
}

type diskOrder struct {
	Controller string // "pvscsi", "lsi", "sata", "nvme", "ide"
	Unit       int32
	Capacity   int64
	File       string
	Mode       string
	Sharing    string
	RDM        string // compatibility mode
	UUID       string
	Name       string // its file's name at the datastore
}

type nicOrder struct {
	Kind    string // "vmxnet3", "e1000e", "pcnet32"
	Mac     string
	Network string
	Port    string // the key of a distributed port group
	Slot    int32
}

type addressOrder struct {
	Address string
	Prefix  int32
	Origin  string
}

type guestOrder struct {
	Key       int32 // of the adapter
	Mac       string
	Addresses []addressOrder
	DHCP      *bool
	DNS       []string
	Search    []string
}

type routeOrder struct {
	Device, Network, Gateway string
	Prefix                   int32
}

// vmOrder says what a VM shall be; what is not named stays.
type vmOrder struct {
	VM, Name, Firmware, Tools, Connection, HostConnection, Power, FT string
	UUID                                                             string
	SecureBoot, Tracking, Template, Consolidation, TPM, Deaf, Passed *bool
	Memory                                                           int32
	CPUs, Cores                                                      int32
	Disks                                                            []diskOrder
	Nics                                                             []nicOrder
	Guest                                                            []guestOrder
	Routes                                                           []routeOrder
	ResetTracking                                                    bool
}

func (w *world) change(vm *simulator.VirtualMachine, o vmOrder) {
	config := vm.Config
	set(o.Name, func(v string) { vm.Name, config.Name, vm.Summary.Config.Name = v, v, v })
	set(o.Firmware, func(v string) { config.Firmware = v })
	set(o.UUID, func(v string) { config.InstanceUuid = v })
	set(o.FT, func(v string) { vm.Runtime.FaultToleranceState = types.VirtualMachineFaultToleranceState(v) })
	set(o.Connection, func(v string) { vm.Runtime.ConnectionState = types.VirtualMachineConnectionState(v) })
	set(o.Power, func(v string) { vm.Runtime.PowerState = types.VirtualMachinePowerState(v) })
	set(o.HostConnection, func(v string) {
		host := simulator.Map.Get(*vm.Runtime.Host).(*simulator.HostSystem)
		host.Runtime.ConnectionState = types.HostSystemConnectionState(v)
	})
	if o.SecureBoot != nil {
		config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: o.SecureBoot}
	}
	if o.Tracking != nil {
		config.ChangeTrackingEnabled = o.Tracking
		w.machine(vm.Self.Value).tracked = *o.Tracking
	}
	if o.Template != nil {
		config.Template = *o.Template
	}
	if o.Consolidation != nil {
		vm.Runtime.ConsolidationNeeded = o.Consolidation
	}
	if o.Deaf != nil {
		w.machine(vm.Self.Value).deaf = *o.Deaf
	}
	if o.CPUs != 0 {
		config.Hardware.NumCPU, config.Hardware.NumCoresPerSocket = o.CPUs, o.Cores
	}
	if o.Memory != 0 {
		config.Hardware.MemoryMB = o.Memory
	}
	if o.ResetTracking {
		w.machine(vm.Self.Value).uuid = uuid.New().String()
	}
	w.changeDevices(vm, o)
	changeGuest(vm, o)
	vm.Capability.ChangeTrackingSupported = types.NewBool(true)
}

func set(value string, to func(string)) {
	if value != "" {
		to(value)
	}
}

var controllers = map[string]int32{"ide": 200, "pvscsi": 1000, "lsi": 1001, "sata": 15000, "nvme": 31000}

func (w *world) changeDevices(vm *simulator.VirtualMachine, o vmOrder) {
	if o.Disks != nil || o.Nics != nil || o.TPM != nil || o.Passed != nil {
		var kept []types.BaseVirtualDevice
		for _, one := range vm.Config.Hardware.Device {
			_, disk := one.(*types.VirtualDisk)
			_, nic := one.(types.BaseVirtualEthernetCard)
			_, scsi := one.(types.BaseVirtualSCSIController)
			_, sata := one.(types.BaseVirtualSATAController)
			_, nvme := one.(*types.VirtualNVMEController)
			_, tpm := one.(*types.VirtualTPM)
			_, passed := one.(*types.VirtualPCIPassthrough)
			gone := disk || scsi || sata || nvme || tpm || passed
			if !(o.Disks != nil && gone) && !(o.Nics != nil && nic) {
				kept = append(kept, one)
			}
		}
		if o.Disks != nil {
			kept = append(kept, w.newDisks(vm, o.Disks)...)
		}
		kept = append(kept, newNics(o.Nics)...)
		if o.TPM != nil && *o.TPM {
			kept = append(kept, &types.VirtualTPM{VirtualDevice: types.VirtualDevice{Key: 11000}})
		}
		if o.Passed != nil && *o.Passed {
			kept = append(kept, &types.VirtualPCIPassthrough{VirtualDevice: types.VirtualDevice{Key: 13000}})
		}
		vm.Config.Hardware.Device = kept
	}
}

func (w *world) newDisks(vm *simulator.VirtualMachine, orders []diskOrder) []types.BaseVirtualDevice {
	scsi := func(key, bus int32) types.VirtualSCSIController {
		return types.VirtualSCSIController{
			VirtualController: types.VirtualController{
				VirtualDevice: types.VirtualDevice{Key: key}, BusNumber: bus,
			},
			SharedBus: types.VirtualSCSISharingNoSharing,
		}
	}
	plain := func(key int32) types.VirtualController {
		return types.VirtualController{VirtualDevice: types.VirtualDevice{Key: key}}
	}
	made := []types.BaseVirtualDevice{
		&types.ParaVirtualSCSIController{VirtualSCSIController: scsi(1000, 0)},
		&types.VirtualLsiLogicSASController{VirtualSCSIController: scsi(1001, 1)},
		&types.VirtualAHCIController{
			VirtualSATAController: types.VirtualSATAController{VirtualController: plain(15000)},
		},
		&types.VirtualNVMEController{VirtualController: plain(31000)},
	}
	m := w.machine(vm.Self.Value)
	m.files = map[int32]string{}
	for i, o := range orders {
		key, unit := int32(2000+i), o.Unit
		m.files[key] = o.File
		file := types.VirtualDeviceFileBackingInfo{FileName: o.Name}
		var backing types.BaseVirtualDeviceBackingInfo = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file, DiskMode: o.Mode, Sharing: o.Sharing, Uuid: o.UUID,
		}
		if o.RDM != "" {
			backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{
				VirtualDeviceFileBackingInfo: file, CompatibilityMode: o.RDM, DiskMode: o.Mode, Uuid: o.UUID,
			}
		}
		made = append(made, &types.VirtualDisk{
			VirtualDevice: types.VirtualDevice{
				Key: key, ControllerKey: controllers[o.Controller], UnitNumber: &unit, Backing: backing,
				DeviceInfo: &types.Description{Label: "Hard disk " + string(rune('1'+i))},
			},
			CapacityInBytes: o.Capacity, CapacityInKB: o.Capacity / 1024,
		})
	}
	return made
}

func newNics(orders []nicOrder) []types.BaseVirtualDevice {
	var made []types.BaseVirtualDevice
	for i, o := range orders {
		card := types.VirtualEthernetCard{
			VirtualDevice: types.VirtualDevice{
				Key:        int32(4000 + i),
				DeviceInfo: &types.Description{Label: "Network adapter " + string(rune('1'+i))},
				SlotInfo:   &types.VirtualDevicePciBusSlotInfo{PciSlotNumber: o.Slot},
				Backing: &types.VirtualEthernetCardNetworkBackingInfo{
					VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: o.Network},
				},
			},
			MacAddress: o.Mac, AddressType: "assigned",
		}
		if o.Port != "" {
			card.Backing = &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
				Port: types.DistributedVirtualSwitchPortConnection{PortgroupKey: o.Port},
			}
		}
		switch o.Kind {
		case "e1000e":
			made = append(made, &types.VirtualE1000e{VirtualEthernetCard: card})
		case "pcnet32":
			made = append(made, &types.VirtualPCNet32{VirtualEthernetCard: card})
		default:
			made = append(made, &types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: card}})
		}
	}
	return made
}

func changeGuest(vm *simulator.VirtualMachine, o vmOrder) {
	if vm.Guest == nil {
		vm.Guest = &types.GuestInfo{}
	}
	set(o.Tools, func(v string) { vm.Guest.ToolsRunningStatus = v })
	if o.Guest == nil {
		return
	}
	vm.Guest.Net = nil
	for _, one := range o.Guest {
		info := types.GuestNicInfo{DeviceConfigId: one.Key, MacAddress: one.Mac, Connected: true}
		info.IpConfig = &types.NetIpConfigInfo{}
		for _, address := range one.Addresses {
			info.IpConfig.IpAddress = append(info.IpConfig.IpAddress, types.NetIpConfigInfoIpAddress{
				IpAddress: address.Address, PrefixLength: address.Prefix, Origin: address.Origin,
			})
		}
		if one.DHCP != nil {
			info.IpConfig.Dhcp = &types.NetDhcpConfigInfo{
				Ipv4: &types.NetDhcpConfigInfoDhcpOptions{Enable: *one.DHCP},
			}
		}
		if one.DNS != nil {
			info.DnsConfig = &types.NetDnsConfigInfo{IpAddress: one.DNS, SearchDomain: one.Search}
		}
		vm.Guest.Net = append(vm.Guest.Net, info)
	}
	routes := &types.NetIpRouteConfigInfo{}
	for _, one := range o.Routes {
		routes.IpRoute = append(routes.IpRoute, types.NetIpRouteConfigInfoIpRoute{
			Network: one.Network, PrefixLength: one.Prefix,
			Gateway: types.NetIpRouteConfigInfoGateway{IpAddress: one.Gateway, Device: one.Device},
		})
	}
	vm.Guest.IpStack = []types.GuestStackInfo{{IpRouteConfig: routes}}
}

func reconfigureAutostart(out http.ResponseWriter, in *http.Request, one call) {
	body, _ := io.ReadAll(in.Body)
	var request struct {
		Body struct {
			Call struct {
				Rows []struct {
					Key    string `xml:"key"`
					Action string `xml:"startAction"`
				} `xml:"spec>powerInfo"`
			} `xml:"ReconfigureAutostart"`
		}
	}
	xml.Unmarshal(body, &request)
	ref := types.ManagedObjectReference{Type: "HostAutoStartManager", Value: one.This}
	manager := simulator.Map.Get(ref).(*autoStart)
	config := manager.host.Config.AutoStart
	for _, row := range request.Body.Call.Rows {
		var kept []types.AutoStartPowerInfo
		for _, old := range config.PowerInfo {
			if old.Key.Value != row.Key {
				kept = append(kept, old)
			}
		}
		config.PowerInfo = append(kept, types.AutoStartPowerInfo{
			Key:         types.ManagedObjectReference{Type: "VirtualMachine", Value: row.Key},
			StartAction: row.Action, StopAction: "systemDefault",
			WaitForHeartbeat: types.AutoStartWaitHeartbeatSettingSystemDefault,
		})
	}
	write(out, 200, `<ReconfigureAutostartResponse xmlns="urn:vim25"></ReconfigureAutostartResponse>`)
}

// ---------------------------------------------------------------- the control port

func (w *world) control() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, act func([]byte) interface{}) {
		mux.HandleFunc(path, func(out http.ResponseWriter, in *http.Request) {
			body, _ := io.ReadAll(in.Body)
			w.Lock()
			defer w.Unlock()
			answer := act(body)
			if text, wrong := answer.(error); wrong {
				http.Error(out, text.Error(), http.StatusBadRequest)
				return
			}
			json.NewEncoder(out).Encode(answer)
		})
	}
	handle("/vm", func(body []byte) interface{} { // what a VM shall be; answers with its id
		var o vmOrder
		if err := json.Unmarshal(body, &o); err != nil {
			return err
		}
		vm := byName(o.VM)
		if vm == nil {
			vm = virtualMachine(o.VM)
		}
		simulator.Map.WithLock(vm, func() { w.change(vm, o) })
		return vm.Self.Value
	})
	handle("/fault", func(body []byte) interface{} { // the next calls go wrong
		var o order
		if err := json.Unmarshal(body, &o); err != nil {
			return err
		}
		w.orders = append(w.orders, &o)
		return true
	})
	handle("/expire", func([]byte) interface{} { // every session that is open now is gone
		for cookie := range w.cookies {
			w.dead[cookie] = true
		}
		return true
	})
	handle("/cut", func([]byte) interface{} { // every connection that is open now is closed
		w.closeConnections()
		return true
	})
	handle("/certificate", func(body []byte) interface{} { // "FILE FILE": another one is shown from now on
		words := strings.Fields(string(body))
		if err := w.shown.load(words[0], words[1]); err != nil {
			return err
		}
		return true
	})
	handle("/calls", func([]byte) interface{} { // the methods called since the last time it was asked
		calls := w.calls
		w.calls = nil
		return append([]string{}, calls...)
	})
	return mux
}
