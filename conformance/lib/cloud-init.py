"""Prints what cloud-init makes of OpenStack's metadata: cloud-init.py service URL | drive FOLDER, and the MAC address of eth0."""
import json
import sys

from cloudinit.sources import DataSourceOpenStack
from cloudinit.sources.helpers import openstack

kind, place, mac = sys.argv[1:]
if kind == "service":
    found = DataSourceOpenStack.read_metadata_service(place)
else:
    found = openstack.ConfigDriveReader(place).read_v2()
found["network"] = openstack.convert_net_json(found["networkdata"], known_macs={mac: "eth0"})
print(json.dumps(found, default=lambda bytes_: bytes_.decode("latin-1")))
