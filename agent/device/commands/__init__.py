"""The command table: for each command its access right and the function that carries it out.

To add a command, add a row, and a function in the module of its family. A function returns the result, or steps (a
generator) that return it, or raises CommandRefused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from agent.device.commands import (
    apps,
    information,
    lom,
    power,
    profiles,
    provisioning,
    security,
    services,
    updates,
    users,
)
from agent.device.commands.reading import CommandRefused, mdm_error
from agent.device.facts.supported import command_problem, management_of
from agent.device.mac import Device
from agent.device.steps import CommandSteps
from agent.mdm.access_rights import AccessRights
from agent.mdm.commands import Command
from agent.mdm.results import INVALID_REQUEST_TYPE, NOT_AUTHORIZED, Result, Status


class Rule(msgspec.Struct, frozen=True):
    """One row of the command table."""

    right: AccessRights | None
    """The access right that the command needs; None if it needs none."""
    carry_out: Callable[[Device, Command], Result | CommandSteps]
    may_wait: bool = True
    """Whether the Mac may answer NotNow."""
    documented: bool = True
    """Whether the schema has it for macOS, and says for which releases and channels."""


def carry_out(device: Device, command: Command) -> Result | CommandSteps:
    """The result of a command, or the steps that return it."""
    rule = COMMANDS.get(command.request_type)
    if rule is None or rule.documented:
        problem = command_problem(command.request_type, device.mac.os_version, command.channel, management_of(device))
        if problem is not None:
            return mdm_error(INVALID_REQUEST_TYPE, problem)
    if rule is None:
        return mdm_error(INVALID_REQUEST_TYPE, f"the request type {command.request_type[:200]} is not supported")
    if rule.right is not None and not device.allows(rule.right):
        return mdm_error(
            NOT_AUTHORIZED,
            f"{command.request_type} needs the access right {int(rule.right)}, which the enrollment does not give",
        )
    if rule.may_wait and device.not_now is not None and device.not_now():
        return Result(Status.NOT_NOW)
    try:
        outcome = rule.carry_out(device, command)
    except CommandRefused as refused:
        return refused.result
    return outcome if isinstance(outcome, Result) else _refusals_answered(outcome)


def _refusals_answered(steps: CommandSteps) -> CommandSteps:
    try:
        return (yield from steps)
    except CommandRefused as refused:
        return refused.result


COMMANDS: Mapping[str, Rule] = {
    "AccountConfiguration": Rule(None, users.account_configuration),
    "ActivationLockBypassCode": Rule(None, security.activation_lock_bypass_code),
    "ActiveNSExtensions": Rule(AccessRights.INSPECT_APPLICATIONS, apps.active_extensions),
    "AvailableOSUpdates": Rule(None, updates.available_os_updates),
    "CancelEnhancedLogCollection": Rule(None, services.cancel_enhanced_log_collection),
    "CertificateList": Rule(AccessRights.INSPECT_PROFILES, profiles.certificate_list),
    "ClearActivationLockBypassCode": Rule(None, security.clear_activation_lock_bypass_code),
    "ContentCachingInformation": Rule(AccessRights.NETWORK_INFORMATION, services.content_caching_information),
    "DeclarativeManagement": Rule(None, information.declarative_management),
    "DeleteUser": Rule(None, users.delete_user),
    "DeviceConfigured": Rule(None, users.device_configured),
    "DeviceInformation": Rule(None, information.device_information),  # each key has its own right
    "DeviceLock": Rule(AccessRights.LOCK_DEVICE, power.device_lock, may_wait=False),
    "DisableRemoteDesktop": Rule(None, security.disable_remote_desktop),
    "EnableRemoteDesktop": Rule(None, security.enable_remote_desktop),
    "EraseDevice": Rule(AccessRights.ERASE_DEVICE, power.erase_device, may_wait=False),
    "InstallApplication": Rule(AccessRights.MANAGE_APPLICATIONS, apps.install_application),
    "InstallEnterpriseApplication": Rule(AccessRights.MANAGE_APPLICATIONS, apps.install_enterprise_application),
    "InstallProfile": Rule(AccessRights.INSTALL_PROFILES, profiles.install_profile),
    "InstallProvisioningProfile": Rule(None, provisioning.install_provisioning_profile),
    "InstalledApplicationList": Rule(AccessRights.INSPECT_APPLICATIONS, apps.installed_application_list),
    "InviteToProgram": Rule(None, apps.invite_to_program),
    "LOMDeviceRequest": Rule(AccessRights.LOCK_DEVICE, lom.lom_device_request),
    "LOMSetupRequest": Rule(AccessRights.LOCK_DEVICE, lom.lom_setup_request),
    "ManagedApplicationConfiguration": Rule(AccessRights.MANAGE_APPLICATIONS, apps.managed_application_configuration),
    "ManagedApplicationFeedback": Rule(AccessRights.MANAGE_APPLICATIONS, apps.managed_application_feedback),
    "ManagedApplicationList": Rule(AccessRights.MANAGE_APPLICATIONS, apps.managed_application_list),
    "NSExtensionMappings": Rule(AccessRights.INSPECT_APPLICATIONS, apps.extension_mappings),
    "OSUpdateStatus": Rule(None, updates.os_update_status),
    "ProfileList": Rule(AccessRights.INSPECT_PROFILES, profiles.profile_list),
    "ProvisioningProfileList": Rule(None, provisioning.provisioning_profile_list),
    "RemoveApplication": Rule(AccessRights.MANAGE_APPLICATIONS, apps.remove_application),
    "RemoveProfile": Rule(AccessRights.INSTALL_PROFILES, profiles.remove_profile),
    "RemoveProvisioningProfile": Rule(None, provisioning.remove_provisioning_profile),
    "RequestMirroring": Rule(None, services.request_mirroring),
    "RestartDevice": Rule(AccessRights.LOCK_DEVICE, power.restart_device),
    "Restrictions": Rule(AccessRights.RESTRICTIONS, information.restrictions, documented=False),
    "RotateFileVaultKey": Rule(AccessRights.LOCK_DEVICE, security.rotate_filevault_key),
    "ScheduleOSUpdate": Rule(None, updates.schedule_os_update),
    "ScheduleOSUpdateScan": Rule(None, updates.schedule_os_update_scan),
    "SecurityInfo": Rule(AccessRights.SECURITY, information.security_info),
    "SetAutoAdminPassword": Rule(None, users.set_auto_admin_password),
    "SetFirmwarePassword": Rule(AccessRights.LOCK_DEVICE, security.set_firmware_password),
    "SetRecoveryLock": Rule(AccessRights.LOCK_DEVICE, security.set_recovery_lock),
    "Settings": Rule(AccessRights.SETTINGS, information.settings),
    "ShutDownDevice": Rule(AccessRights.LOCK_DEVICE, power.shut_down_device),
    "StopMirroring": Rule(None, services.stop_mirroring),
    "TriggerEnhancedLogCollection": Rule(None, services.trigger_enhanced_log_collection),
    "UnlockUserAccount": Rule(AccessRights.LOCK_DEVICE, users.unlock_user_account),
    "UserList": Rule(None, users.user_list),
    "VerifyFirmwarePassword": Rule(None, security.verify_firmware_password),
    "VerifyRecoveryLock": Rule(AccessRights.LOCK_DEVICE, security.verify_recovery_lock),
}
