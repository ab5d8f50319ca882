"""Python's own clients of identity, one step each: reads a JSON request on its standard input, prints a JSON answer.

login: any auth plugin of keystoneauth by its name, with its options; tells what the token is.
sign: parts of requests and what they are signed with by an EC2 secret, by the version of the signature.
k2k: from a password login at one cloud to another cloud.
"""

import copy
import datetime
import hashlib
import json
import sys

from keystoneauth1 import exceptions
from keystoneauth1 import loading
from keystoneauth1 import session
from keystoneauth1.identity.v3 import k2k
from keystoneclient.contrib.ec2 import utils


def shown(plugin):
    access = plugin.get_access(session.Session())
    return {
        'token': access.auth_token,
        'user': access.username,
        'project': access.project_name,
        'roles': access.role_names,
        'methods': access._user and access._data['token']['methods'],
        'catalog': len(access.service_catalog.catalog),
    }


def login(request):
    return shown(loading.get_plugin_loader(request['plugin']).load_from_options(**request['options']))


def keystone_to_keystone(request):
    home = loading.get_plugin_loader('v3password').load_from_options(**request['home'])
    return shown(k2k.Keystone2Keystone(home, request['provider'], **request['scope']))


def sign(request):
    now = datetime.datetime.now(datetime.timezone.utc)
    basic = {'access': request['access'], 'host': 'cloud.example:8000', 'verb': 'GET', 'path': '/v1/'}
    empty = hashlib.sha256(b'').hexdigest()
    parameters = {'Action': 'Test', 'Timestamp': now.strftime('%Y-%m-%dT%H:%M:%SZ'), 'a ~key': 'a/b~c'}
    answer = {}
    for version in ('0', '1', '2'):
        answer[version] = {**basic, 'params': {**parameters, 'SignatureVersion': version}}
    date = now.strftime('%Y%m%dT%H%M%SZ')
    credential = f'{request["access"]}/{date[:8]}/region/ec2/aws4_request'
    headers = {
        'Host': basic['host'],
        'X-Amz-Date': date,
        'Authorization': f'AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host;x-amz-date, Signature=',
    }
    answer['4'] = {**basic, 'params': {}, 'headers': headers, 'body_hash': empty}
    for parts in answer.values():
        parts['signature'] = utils.Ec2Signer(request['secret']).generate(copy.deepcopy(parts))
    return answer


request = json.load(sys.stdin)
try:
    answer = {'login': login, 'k2k': keystone_to_keystone, 'sign': sign}[request['do']](request)
except exceptions.HttpError as error:
    answer = {'status': error.http_status, 'message': error.message}
print(json.dumps(answer))
